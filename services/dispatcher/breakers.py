"""Looks every second whether a breaker must pause a campaign that is being sent: because of its list, or of a relay if
the sender died after it had recorded the trip."""

from collections.abc import Callable
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from services.dispatcher.metrics import DispatcherMetrics
from shared import logs
from shared.faults.breakers import Breaker
from shared.ledger import breakers
from shared.ledger.database import Ledger

LOOK_SECONDS = 1.0

log = logs.get()


class Breakers:
    """Several dispatchers may look: the campaign is paused once."""

    def __init__(
        self, ledger: Ledger, metrics: DispatcherMetrics, list_share: float, paused: Callable[[], None]
    ) -> None:
        self._ledger = ledger
        self._metrics = metrics
        self._list_share = list_share
        #: Called after a campaign was paused: its released batches are to be taken back.
        self._paused = paused

    async def tick(self) -> None:
        """Pauses every campaign that a breaker must."""
        async with self._ledger.read() as connection:
            suspects = await breakers.suspects(connection, self._list_share)
        for campaign_id in suspects:
            async with self._ledger.write() as connection:
                # Again: another dispatcher may have paused it, and a person may have resumed it.
                trouble = await self._trouble(connection, campaign_id)
                if trouble is None or not await breakers.pause(connection, campaign_id, *trouble):
                    continue
            breaker, _ = trouble
            self._metrics.breaker_trips.labels(breaker.value).inc()
            log.warning("breaker.tripped", campaign_id=str(campaign_id), breaker=breaker.value)
            self._paused()

    async def _trouble(self, connection: AsyncConnection, campaign_id: UUID) -> tuple[Breaker, str] | None:
        if (why := await breakers.relay_trouble(connection, campaign_id)) is not None:
            return Breaker.RELAY, why
        if (why := await breakers.list_trouble(connection, campaign_id, self._list_share)) is not None:
            return Breaker.LIST, why
        return None

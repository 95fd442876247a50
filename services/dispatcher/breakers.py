"""Looks every second whether a campaign that is being sent must pause: because of its list, or of
refusals if the sender died after it had recorded them."""

from collections.abc import Callable

from services.dispatcher.metrics import DispatcherMetrics
from shared import logs
from shared.ledger import breakers, spread
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
        """Pauses every campaign that must."""
        async with self._ledger.read() as connection:
            suspects = await breakers.suspects(connection, self._list_share)
            refused = await spread.suspects(connection)
        for campaign_id in refused:
            async with self._ledger.write() as connection:
                if not await spread.pause(connection, campaign_id):
                    continue
            log.warning("campaign.paused", campaign_id=str(campaign_id), reason="refused in the same words")
            self._paused()
        for campaign_id in suspects:
            async with self._ledger.write() as connection:
                # Again: another dispatcher may have paused it, and a person may have resumed it.
                trouble = await breakers.trouble(connection, campaign_id, self._list_share)
                if trouble is None or not await breakers.pause(connection, campaign_id, *trouble):
                    continue
            breaker, _ = trouble
            self._metrics.breaker_trips.labels(breaker.value).inc()
            log.warning("breaker.tripped", campaign_id=str(campaign_id), breaker=breaker.value)
            self._paused()

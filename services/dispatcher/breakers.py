"""Looks whether a breaker must pause a campaign that is being sent: its list, and relays whose sender died after it had
recorded the trip."""

import time
from collections.abc import Sequence
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from services.dispatcher.metrics import DispatcherMetrics
from services.dispatcher.survey import OpenCampaign
from shared import logs
from shared.faults.breakers import Breaker
from shared.ledger import breakers
from shared.ledger.database import Ledger
from shared.ledger.states import CampaignStatus

LOOK_SECONDS = 1.0
"""Shortest time between two looks at one campaign: a look adds up all of its batches."""

log = logs.get()


class Breakers:
    """One per process."""

    def __init__(self, ledger: Ledger, metrics: DispatcherMetrics, list_share: float) -> None:
        self._ledger = ledger
        self._metrics = metrics
        self._list_share = list_share
        #: By campaign, in monotonic seconds.
        self._looked_at: dict[UUID, float] = {}

    def forget(self, open_campaigns: Sequence[OpenCampaign]) -> None:
        """Forgets campaigns that are closed."""
        self._looked_at = {one.id: self._looked_at[one.id] for one in open_campaigns if one.id in self._looked_at}

    async def look(self, campaign: OpenCampaign) -> str | None:
        """Pauses the campaign if a breaker must; returns its new status, or None."""
        if not campaign.may_send:
            return None
        now = time.monotonic()
        if now - self._looked_at.get(campaign.id, -LOOK_SECONDS) < LOOK_SECONDS:
            return None
        self._looked_at[campaign.id] = now
        async with self._ledger.read() as connection:
            if await self._trouble(connection, campaign.id) is None:
                return None
        async with self._ledger.write() as connection:
            # Again: another dispatcher may have paused it, and a person may have resumed it.
            trouble = await self._trouble(connection, campaign.id)
            if trouble is None or not await breakers.pause(connection, campaign.id, *trouble):
                return None
        breaker, _ = trouble
        self._metrics.breaker_trips.labels(breaker.value).inc()
        log.warning("breaker.tripped", campaign_id=str(campaign.id), breaker=breaker.value)
        return CampaignStatus.PAUSED.value

    async def _trouble(self, connection: AsyncConnection, campaign_id: UUID) -> tuple[Breaker, str] | None:
        if (why := await breakers.relay_trouble(connection, campaign_id)) is not None:
            return Breaker.RELAY, why
        if (why := await breakers.list_trouble(connection, campaign_id, self._list_share)) is not None:
            return Breaker.LIST, why
        return None

"""Looks every second whether a campaign that is being sent must pause: because of its list, or of
refusals if the sender died after it had recorded them.

Only campaigns with batches out get results, so only those are looked at, and all others once a minute."""

import time
from collections.abc import Callable, Collection
from uuid import UUID

from services.dispatcher.metrics import DispatcherMetrics
from shared import logs
from shared.ledger import breakers, spread
from shared.ledger.database import Ledger

LOOK_SECONDS = 1.0

ALL_SECONDS = 60.0
"""How often all campaigns being sent are looked at: a round may have missed batches that were out for a moment."""

MOST_CAMPAIGNS = 1000
"""If more have batches out, all are looked at: a statement takes only so many ids."""

log = logs.get()


class Breakers:
    """Several dispatchers may look: the campaign is paused once."""

    def __init__(
        self,
        ledger: Ledger,
        metrics: DispatcherMetrics,
        list_share: float,
        out_lately: Callable[[], Collection[UUID]],
        paused: Callable[[], None],
    ) -> None:
        self._ledger = ledger
        self._metrics = metrics
        self._list_share = list_share
        #: Campaigns that have batches out, or had until a moment ago.
        self._out_lately = out_lately
        #: When all were looked at, in monotonic seconds.
        self._all_at = float("-inf")
        #: Called after a campaign was paused: its released batches are to be taken back.
        self._paused = paused

    async def tick(self) -> None:
        """Pauses every campaign that must."""
        now, among = time.monotonic(), self._among()
        if among is not None and not among:
            return
        suspects = await breakers.suspects(self._ledger, self._list_share, among)
        refused = await spread.suspects(self._ledger, among)
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
        if among is None:
            self._all_at = now

    def _among(self) -> Collection[UUID] | None:
        """The campaigns to look at; None: all."""
        if time.monotonic() - self._all_at >= ALL_SECONDS:
            return None
        out = self._out_lately()
        return out if len(out) <= MOST_CAMPAIGNS else None

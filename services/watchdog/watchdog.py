"""The watchdog's turns: heartbeats in, a look every second, a sweep every few minutes; and telling what was done."""

import asyncio
import time
from collections.abc import Sequence

from services.watchdog import idle, rescue, sweep
from services.watchdog.deeds import Deed, Kind
from services.watchdog.heartbeats import Heartbeats
from services.watchdog.metrics import WatchdogMetrics
from shared import logs
from shared.bus import Bus
from shared.events import BatchRequeued, CampaignRequested, Event, SenderHeartbeat
from shared.health import late
from shared.ledger.database import Ledger, in_a_line, is_unavailable
from shared.settings import WatchdogSettings

WRITE_SECONDS = 0.5
"""Heartbeats that come within so short a time are written together."""

log = logs.get()


class Watchdog:
    """Several may run: every rescue and repair is confirmed by the ledger in the update that does it."""

    def __init__(
        self, settings: WatchdogSettings, ledger: Ledger, bus: Bus, metrics: WatchdogMetrics, heartbeats: Heartbeats
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._bus = bus
        self._metrics = metrics
        self._heartbeats = heartbeats
        self._heard = asyncio.Event()
        self.looked_at = time.monotonic()

    async def on_heartbeat(self, heartbeat: SenderHeartbeat) -> None:
        self._heartbeats.note(heartbeat)
        self._heard.set()

    async def run(self) -> None:
        """Writes heartbeats into the ledger as they come, until cancelled."""
        while True:
            await self._heard.wait()
            self._heard.clear()
            try:
                await self._heartbeats.write(self._ledger)
            except Exception as error:
                if not is_unavailable(error):
                    raise
                log.warning("database.unreachable", error=in_a_line(error))
                self._heard.set()
            await asyncio.sleep(WRITE_SECONDS)

    async def look(self) -> None:
        """The clock turn: leases that ran out, batches that stand still, tickets that were lost."""
        senders = self._heartbeats.living()
        deeds = [
            *await rescue.leases(self._ledger),
            *await rescue.standing_still(self._ledger, self._heartbeats.stalled()),
            *await rescue.tickets(self._ledger, self._settings, senders),
        ]
        await self._tell(deeds, "clock")
        await idle.mark(self._ledger, no_relay=rescue.none_has_a_relay(senders))
        self.looked_at = time.monotonic()

    async def check(self) -> str:
        """For readiness: what is wrong with the looks."""
        return late(self.looked_at, self._settings.clock_seconds, "look at the leases")

    async def sweep(self) -> None:
        """The full sweep."""
        with self._metrics.sweep_seconds.time():
            await self._tell(await sweep.rows(self._ledger), "sweep")
            await self._tell(await sweep.overlooked(self._ledger), "sweep")
            blocked = await sweep.blocked(self._ledger)
            await sweep.tidy(self._ledger, self._settings)
        self._metrics.swept_at.set_to_current_time()
        self._metrics.blocked.set(len(blocked))
        for deed in blocked:
            log.warning("campaign.blocked", campaign_id=str(deed.campaign_id), reason=deed.text)

    async def _tell(self, deeds: Sequence[Deed], cause: str) -> None:
        """Each deed stands in the timeline already, by the transaction that did it."""
        if not deeds:
            return
        self._metrics.common.wakeups.labels(cause).inc()
        for deed in deeds:
            self._metrics.count(deed)
            log.warning(
                f"watchdog.{deed.kind.value}",
                reason=deed.reason,
                text=deed.text,
                campaign_id=str(deed.campaign_id),
                batch_id=deed.batch_id,
                generation=deed.generation,
            )
        # All at once: a broker that is slow to confirm costs one wait, and an event it does not take costs nothing.
        await asyncio.gather(*(self._bus.publish(_event(deed)) for deed in deeds))


def _event(deed: Deed) -> Event:
    if deed.kind is Kind.CALL or deed.batch_id is None or deed.generation is None:
        return CampaignRequested(campaign_id=deed.campaign_id)
    return BatchRequeued(
        batch_id=deed.batch_id, campaign_id=deed.campaign_id, generation=deed.generation, reason=deed.reason
    )

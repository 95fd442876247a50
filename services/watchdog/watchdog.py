"""The watchdog's work: heartbeats as they come, a look at the batches every second, and the sweep."""

import asyncio
import time
from collections.abc import Sequence

from services.watchdog import idle, rescue
from services.watchdog.findings import Finding, Kind
from services.watchdog.heartbeats import Heartbeats
from services.watchdog.metrics import WatchdogMetrics
from services.watchdog.sweep import Sweep
from shared import logs
from shared.bus import Bus
from shared.events import BatchRequeued, CampaignRequested, Event, SenderHeartbeat
from shared.health import late
from shared.ledger.database import Ledger, in_a_line, is_unavailable
from shared.settings import WatchdogSettings

WRITE_SECONDS = 0.5
"""Heartbeats that arrive within this time are written together."""

log = logs.get()


class Watchdog:
    """Several may run: the update that rescues or repairs something confirms in the ledger that this is needed."""

    def __init__(
        self, settings: WatchdogSettings, ledger: Ledger, bus: Bus, metrics: WatchdogMetrics, heartbeats: Heartbeats
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._bus = bus
        self._metrics = metrics
        self._heartbeats = heartbeats
        self.sweeping = Sweep(ledger, settings)
        self._heard = asyncio.Event()
        self.looked_at = time.monotonic()
        #: The statements of a look were executed once, so that they are compiled before the first campaign.
        self._is_warm = False

    async def on_heartbeat(self, heartbeat: SenderHeartbeat) -> None:
        self._heartbeats.note(heartbeat)
        self._heard.set()

    async def run(self) -> None:
        """Writes heartbeats to the ledger as they arrive, until cancelled."""
        while True:
            await self._heard.wait()
            self._heard.clear()
            try:
                await self._heartbeats.write(self._ledger)
                self._metrics.common.wakeups.labels("event").inc()
            except Exception as error:
                if not is_unavailable(error):
                    raise
                log.warning("database.unreachable", error=in_a_line(error))
                self._heard.set()
            await asyncio.sleep(WRITE_SECONDS)

    async def look(self) -> None:
        """A tick: rescues batches with an expired lease, without progress, or with a lost ticket."""
        senders, stalled = self._heartbeats.living(), self._heartbeats.stalled()
        # The only statement while there is nothing to do.
        if await rescue.any_out(self._ledger) or not self._is_warm:
            findings = [
                *await rescue.leases(self._ledger),
                *await rescue.stalled(self._ledger, stalled),
                *await rescue.tickets(self._ledger, self._settings, senders),
            ]
            await self._report(findings, "clock")
            await idle.mark(self._ledger, no_relay=rescue.none_has_a_relay(senders))
            self._is_warm = True
        self.looked_at = time.monotonic()

    async def check(self) -> str:
        """Readiness: what is wrong with the looks, or an empty string."""
        return late(self.looked_at, self._settings.clock_seconds, "look at the leases")

    async def sweep(self) -> None:
        """A tick: a short step of the sweep. At the end of a pass, notes what it found."""
        passes = self.sweeping.passes
        await self._report(await self.sweeping.tick(), "sweep")
        if self.sweeping.passes == passes:
            return
        self._metrics.sweep_seconds.observe(self.sweeping.pass_seconds)
        self._metrics.swept_at.set_to_current_time()
        self._metrics.blocked.set(self.sweeping.blocked_count)
        for finding in self.sweeping.blocked:
            log.warning("campaign.blocked", campaign_id=str(finding.campaign_id), reason=finding.text)

    async def _report(self, findings: Sequence[Finding], cause: str) -> None:
        """Counts, logs and publishes findings. The transaction that made each one has put it in the timeline."""
        if not findings:
            return
        self._metrics.common.wakeups.labels(cause).inc()
        for finding in findings:
            self._metrics.count(finding)
            log.warning(
                f"watchdog.{finding.kind.value}",
                reason=finding.reason,
                text=finding.text,
                campaign_id=str(finding.campaign_id),
                batch_id=finding.batch_id,
                generation=finding.generation,
            )
        # All at once, so that a broker that is slow to confirm costs one wait.
        await asyncio.gather(*(self._bus.publish(_event(finding)) for finding in findings))


def _event(finding: Finding) -> Event:
    if finding.kind is Kind.CALL or finding.batch_id is None or finding.generation is None:
        return CampaignRequested(campaign_id=finding.campaign_id)
    return BatchRequeued(
        batch_id=finding.batch_id, campaign_id=finding.campaign_id, generation=finding.generation, reason=finding.reason
    )

"""Heartbeats of the senders: which are alive, how many batches they can hold, which batches make progress.

Heartbeats only make a batch suspect whose sender is alive but makes no progress with it. If a sender is silent, the
leases in the ledger decide about its batches.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from sqlalchemy.ext.asyncio import AsyncConnection

from services.watchdog.findings import RescueReason
from shared import logs
from shared.events import BatchProgress, SenderHeartbeat
from shared.ledger import instances
from shared.ledger.database import Ledger
from shared.settings import WatchdogSettings

OVERDUE_GRACE_SECONDS = 30.0
"""A sender ends a batch itself at its hard limit. This much later something is wrong with the sender."""

MOST_SENDERS = 10_000
"""Senders that are known at once. The names come from outside: one account could invent any number."""

log = logs.get()


@dataclass(frozen=True, slots=True)
class Stalled:
    """A batch that its owner holds beyond its limits, with the generation that its heartbeat named."""

    reason: RescueReason
    instance: str
    batch: BatchProgress


class Heartbeats:
    """The newest heartbeat of each live sender."""

    def __init__(self, settings: WatchdogSettings) -> None:
        self._settings = settings
        #: By instance, with the monotonic time of arrival.
        self._latest: dict[str, tuple[float, SenderHeartbeat]] = {}
        #: Not yet in the ledger.
        self._unwritten: dict[str, SenderHeartbeat] = {}
        #: Not yet searched for stalled batches.
        self._unjudged: dict[str, SenderHeartbeat] = {}

    def note(self, heartbeat: SenderHeartbeat) -> None:
        """Keeps a heartbeat. Those of more than MOST_SENDERS living senders are dropped."""
        if heartbeat.instance not in self._latest and len(self.living()) >= MOST_SENDERS:
            log.warning("heartbeat.dropped", instance=heartbeat.instance, senders=MOST_SENDERS)
            return
        for beats in (self._unwritten, self._unjudged):
            if heartbeat.instance not in beats and len(beats) >= MOST_SENDERS:
                del beats[next(iter(beats))]
        self._latest[heartbeat.instance] = (time.monotonic(), heartbeat)
        self._unwritten[heartbeat.instance] = heartbeat
        self._unjudged[heartbeat.instance] = heartbeat

    def living(self) -> Sequence[SenderHeartbeat]:
        """The senders heard from within `instance_lost_seconds`; forgets the others."""
        oldest = time.monotonic() - self._settings.instance_lost_seconds
        self._latest = {name: (at, beat) for name, (at, beat) in self._latest.items() if at >= oldest}
        return [beat for _, beat in self._latest.values()]

    def stalest_seconds(self) -> float:
        """Seconds since the oldest of these heartbeats, not counting senders that are stopping."""
        now = time.monotonic()
        return max((now - at for at, beat in self._latest.values() if not beat.draining), default=0.0)

    def stalled(self) -> Sequence[Stalled]:
        """Batches without progress, or held beyond their hard limit, by the heartbeats since the last call.

        Their leases may still be renewed."""
        found = []
        beats, self._unjudged = self._unjudged, {}
        for beat in beats.values():
            for batch in beat.batches:
                if batch.idle_seconds > self._settings.stalled_seconds:
                    found.append(Stalled(RescueReason.STALLED, beat.instance, batch))
                elif batch.age_seconds > self._settings.batch_hard_seconds + OVERDUE_GRACE_SECONDS:
                    found.append(Stalled(RescueReason.OVERDUE, beat.instance, batch))
        return found

    async def write(self, ledger: Ledger) -> None:
        """Writes the heartbeats since the last call to the ledger. If that fails, keeps them for the next call."""
        if not self._unwritten:
            return
        beats, self._unwritten = self._unwritten, {}
        try:
            await ledger.write_at_once(partial(_write, beats=beats))
        except Exception:
            self._unwritten = beats | self._unwritten
            raise


async def _write(connection: AsyncConnection, beats: Mapping[str, SenderHeartbeat]) -> None:
    for _, beat in sorted(beats.items()):
        await instances.seen(
            connection,
            instance=beat.instance,
            service="sender",
            host=beat.host,
            pid=beat.pid,
            slot=beat.slot,
            slots=beat.slots,
            draining=beat.draining,
            uptime_seconds=beat.uptime_seconds,
            detail={
                "emails_done": beat.emails_done,
                "emails_per_second": beat.emails_per_second,
                "batches": [batch.model_dump(mode="json") for batch in beat.batches],
                "relays": [relay.model_dump(mode="json") for relay in beat.relays],
            },
        )

"""What the senders tell about themselves: who is alive, how many slots there are, which batches move.

Heartbeats only ever make a batch suspect that stands still in a living sender. Silence says nothing: whether a silent
sender has lost its batches is the ledger's to say, by their leases.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from services.watchdog.deeds import RescueReason
from shared.events import BatchProgress, SenderHeartbeat
from shared.ledger import instances
from shared.ledger.database import Ledger
from shared.settings import WatchdogSettings

OVERDUE_GRACE_SECONDS = 30.0
"""A sender ends a batch by itself at its hard limit; so much later something is wrong with it."""


@dataclass(frozen=True, slots=True)
class Stalled:
    """A batch that its owner holds beyond its limits, at the generation it was seen with."""

    reason: RescueReason
    instance: str
    batch: BatchProgress


class Heartbeats:
    """The newest heartbeat of each sender; bounded by the number of senders heard of lately."""

    def __init__(self, settings: WatchdogSettings) -> None:
        self._settings = settings
        self._latest: dict[str, tuple[float, SenderHeartbeat]] = {}
        self._unwritten: dict[str, SenderHeartbeat] = {}
        self._unjudged: dict[str, SenderHeartbeat] = {}

    def note(self, heartbeat: SenderHeartbeat) -> None:
        self._latest[heartbeat.instance] = (time.monotonic(), heartbeat)
        self._unwritten[heartbeat.instance] = heartbeat
        self._unjudged[heartbeat.instance] = heartbeat

    def living(self) -> Sequence[SenderHeartbeat]:
        """The senders heard of lately; the others are forgotten."""
        oldest = time.monotonic() - self._settings.instance_lost_seconds
        self._latest = {name: (at, beat) for name, (at, beat) in self._latest.items() if at >= oldest}
        return [beat for _, beat in self._latest.values()]

    def stalest_seconds(self) -> float:
        """How long ago the quietest living sender was heard; one that is stopping may fall silent."""
        now = time.monotonic()
        return max((now - at for at, beat in self._latest.values() if not beat.draining), default=0.0)

    def stalled(self) -> Sequence[Stalled]:
        """Batches whose lease may well be renewed, but which do not move, or have long been due back; by what was heard
        since the last call."""
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
        """Writes what was heard since the last time; what the ledger does not take is kept for the next."""
        if not self._unwritten:
            return
        beats, self._unwritten = self._unwritten, {}
        try:
            async with ledger.write() as connection:
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
        except Exception:
            self._unwritten = beats | self._unwritten
            raise

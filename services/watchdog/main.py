"""The watchdog: knows who is alive and moving, takes stalled batches back, sweeps the ledger and mends it."""

import time

from services.watchdog.heartbeats import Heartbeats
from services.watchdog.metrics import WatchdogMetrics
from services.watchdog.surroundings import Surroundings
from services.watchdog.watchdog import Watchdog
from shared import topology
from shared.events import SenderHeartbeat
from shared.ledger import instances
from shared.process import Process
from shared.settings import WatchdogSettings

PREFETCH = 100
SEEN_SECONDS = 5.0


async def body(process: Process[WatchdogSettings]) -> None:
    """Serves until stopped."""
    heartbeats = Heartbeats(process.settings)
    metrics = WatchdogMetrics(process.metrics, process.ledger, heartbeats)
    process.health.refresh += [metrics.refresh, Surroundings(process.metrics, process.settings).refresh]
    watchdog = Watchdog(process.settings, process.ledger, process.bus, metrics, heartbeats)
    process.health.checks["looks"] = watchdog.check
    process.bus.subscribe(topology.HEARTBEATS, SenderHeartbeat, watchdog.on_heartbeat, prefetch=PREFETCH)
    started = time.monotonic()

    async def tell_seen() -> None:
        async with process.ledger.write() as connection:
            await instances.seen(
                connection,
                instance=process.instance,
                service=process.service,
                uptime_seconds=time.monotonic() - started,
            )

    await process.run(
        watchdog.run(),
        process.clock(watchdog.look, process.settings.clock_seconds),
        process.clock(watchdog.sweep, process.settings.sweep_seconds, may_last=True),
        process.clock(tell_seen, SEEN_SECONDS),
    )

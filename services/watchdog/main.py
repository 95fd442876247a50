"""The watchdog: knows which senders are alive, rescues stalled batches, and repairs what disagrees in the ledger."""

from services.watchdog.environment import EnvironmentMetrics
from services.watchdog.heartbeats import Heartbeats
from services.watchdog.metrics import WatchdogMetrics
from services.watchdog.sweep import TICK_SECONDS
from services.watchdog.watchdog import Watchdog
from shared import topology
from shared.events import SenderHeartbeat
from shared.process import ALIVE_SECONDS, Process
from shared.settings import WatchdogSettings

PREFETCH = 100


async def serve(process: Process[WatchdogSettings]) -> None:
    """Builds the parts, subscribes them to their events, and runs them until the process stops."""
    settings = process.settings
    heartbeats = Heartbeats(settings)
    metrics = WatchdogMetrics(process.metrics, process.ledger, heartbeats)
    environment = EnvironmentMetrics(process.metrics, settings)
    watchdog = Watchdog(settings, process.ledger, process.bus, metrics, heartbeats)

    process.bus.subscribe(topology.HEARTBEATS, SenderHeartbeat, watchdog.on_heartbeat, prefetch=PREFETCH)

    process.health.checks["looks"] = watchdog.check
    process.health.refresh += [metrics.refresh, environment.refresh]

    await process.run(
        watchdog.run(),
        process.clock(process.note_alive, ALIVE_SECONDS),
        process.clock(watchdog.look, settings.clock_seconds),
        process.clock(watchdog.sweep, TICK_SECONDS, may_last=True),
    )

"""The dispatcher: splits campaigns into batches, releases them at the right pace, and closes campaigns."""

from services.dispatcher.breakers import LOOK_SECONDS, Breakers
from services.dispatcher.dispatcher import Dispatcher
from services.dispatcher.history import NOTE_SECONDS, History
from services.dispatcher.metrics import DispatcherMetrics
from services.dispatcher.outbox import FORGET_SECONDS, PLACE_SECONDS, OutboxClerk
from services.dispatcher.prewarm import dispatch_nothing
from services.dispatcher.rollups import LOOK_SECONDS as ROLL_UP_SECONDS
from services.dispatcher.rollups import Rollups
from shared import topology
from shared.events import AnyProgress, CampaignRequested
from shared.ledger.prewarm import prewarm
from shared.process import ALIVE_SECONDS, Process
from shared.settings import DispatcherSettings

PREFETCH = 100
CONNECTIONS = 3
"""The clocks tick together as the process starts."""


async def serve(process: Process[DispatcherSettings]) -> None:
    """Builds the parts, subscribes them to their events, and runs them until the process stops."""
    metrics = DispatcherMetrics(process.metrics, process.ledger)
    dispatcher = Dispatcher(process.settings, process.ledger, process.bus, metrics)
    history = History(process.ledger, dispatcher.out_lately)
    breakers = Breakers(
        process.ledger, metrics, process.settings.list_breaker_share, dispatcher.out_lately, dispatcher.wake
    )
    rollups = Rollups(process.ledger)
    settings = process.settings
    outbox = OutboxClerk(
        process.ledger,
        metrics,
        settings.events_kept_seconds,
        dispatcher.out_lately,
        settings.retention_days,
        dispatcher.unplaced,
    )

    process.bus.subscribe(topology.CAMPAIGNS, CampaignRequested, dispatcher.on_request, prefetch=PREFETCH)
    process.bus.subscribe(topology.DEFAULT, AnyProgress, dispatcher.on_progress, prefetch=PREFETCH)

    process.ticks.append(dispatcher.ticks)
    process.health.checks["rounds"] = dispatcher.check
    process.health.refresh.append(metrics.refresh)

    await prewarm(process.ledger, dispatch_nothing, CONNECTIONS)
    await process.run(
        dispatcher.run(),
        process.clock(process.note_alive, ALIVE_SECONDS),
        process.clock(history.tick, NOTE_SECONDS),
        process.clock(breakers.tick, LOOK_SECONDS),
        process.clock(rollups.tick, ROLL_UP_SECONDS, may_last=True),
        process.clock(outbox.place, PLACE_SECONDS, may_last=True),
        process.clock(outbox.forget, FORGET_SECONDS, may_last=True),
    )

"""The dispatcher: splits campaigns lazily, paces and releases their batches, closes campaigns."""

import time
from typing import ClassVar

from services.dispatcher.dispatcher import Dispatcher
from services.dispatcher.history import NOTE_SECONDS, History
from services.dispatcher.metrics import DispatcherMetrics
from shared import topology
from shared.events import CampaignRequested, Event
from shared.ledger import instances
from shared.process import Process
from shared.settings import DispatcherSettings

PREFETCH = 100
SEEN_SECONDS = 5.0


class Progress(Event):
    """Whatever arrives on the queue of progress: that something moved is all the dispatcher wants to know."""

    ROUTING_KEY: ClassVar[str] = "progress"


async def body(process: Process[DispatcherSettings]) -> None:
    """Serves until stopped."""
    metrics = DispatcherMetrics(process.metrics, process.ledger)
    process.health.refresh.append(metrics.refresh)
    dispatcher = Dispatcher(process.settings, process.ledger, process.bus, metrics)

    process.health.checks["rounds"] = dispatcher.check
    process.turns.append(dispatcher.turn)

    async def wake(_event: Event) -> None:
        # Acknowledged at once: the turn runs outside, and the ledger knows what there is to do.
        dispatcher.wake()

    process.bus.subscribe(topology.CAMPAIGNS, CampaignRequested, wake, prefetch=PREFETCH)
    process.bus.subscribe(topology.DEFAULT, Progress, wake, prefetch=PREFETCH)
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
        dispatcher.run(),
        process.clock(tell_seen, SEEN_SECONDS),
        process.clock(History(process.ledger).turn, NOTE_SECONDS),
    )

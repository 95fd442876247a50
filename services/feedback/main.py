"""Feedback: takes in what comes back after a relay's 250, and records it in the ledger."""

from services.feedback.addresses import Addresses
from services.feedback.doors import Doors, Handler
from services.feedback.metrics import FeedbackMetrics
from services.feedback.recorder import Recorder
from shared.process import ALIVE_SECONDS, Process
from shared.settings import FeedbackSettings

TRIM_SECONDS = 300.0


async def serve(process: Process[FeedbackSettings]) -> None:
    """Builds the parts, and runs them until the process stops."""
    settings = process.settings
    metrics = FeedbackMetrics(process.metrics.registry)
    recorder = Recorder(process.ledger, settings.token_keys, metrics)
    addresses = Addresses(process.ledger, settings.token_keys)
    handler = Handler(settings, addresses, recorder, metrics)
    doors = Doors(settings, handler, metrics)

    # What it does is in the ledger, and wakes no one.
    process.health.optional.add("broker")

    await process.run(
        doors.run(),
        addresses.run(),
        recorder.run(),
        process.clock(process.note_alive, ALIVE_SECONDS),
        process.clock(recorder.trim, TRIM_SECONDS),
    )

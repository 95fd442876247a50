"""The engine's observer: metrics of its connections, and log events with the ids of each email."""

from collections.abc import Mapping

from services.sender.held_batch import Email
from services.sender.metrics import SenderMetrics
from services.sender.smtp.contract import Job, Outcome
from services.sender.smtp.observe import LogObserver
from shared.relays.replies import Stage

CONNECTING = (Stage.CONNECT, Stage.BANNER, Stage.EHLO, Stage.TLS, Stage.AUTH)


class SenderObserver(LogObserver):
    """Adds campaign, batch and recipient to the engine's log events, and measures how long connecting takes."""

    def __init__(self, metrics: SenderMetrics) -> None:
        super().__init__(_ids)
        self._connect = metrics.connect_seconds
        self._refusals = metrics.refusals

    def attempt(self, job: Job, outcome: Outcome) -> None:
        """Counts refusals by fault."""
        if outcome.consequence is not None:
            self._refusals.labels(outcome.consequence.fault.value).inc()
        super().attempt(job, outcome)

    def phase(self, relay: str, stage: Stage, seconds: float) -> None:
        """Measures the steps of opening a connection."""
        if stage in CONNECTING:
            self._connect.observe(seconds)


def _ids(job: Job) -> Mapping[str, object]:
    if not isinstance(job, Email):
        return {}
    claim = job.held.claim
    return {
        "campaign_id": str(claim.campaign_id),
        "batch_id": claim.batch_id,
        "generation": claim.generation,
        "recipient_id": job.row.id,
    }

"""What the engine tells while it works, as metrics and log events."""

from collections.abc import Mapping

from services.sender.hand import Email
from services.sender.metrics import SenderMetrics
from services.sender.smtp.contract import Job
from services.sender.smtp.observe import LogObserver
from shared.relays.replies import Stage

CONNECTING = (Stage.CONNECT, Stage.BANNER, Stage.EHLO, Stage.TLS, Stage.AUTH)


class SenderObserver(LogObserver):
    """The engine's log events with the campaign's story in each, and the time its connections take."""

    def __init__(self, metrics: SenderMetrics) -> None:
        super().__init__(_story)
        self._connect = metrics.connect_seconds

    def phase(self, relay: str, stage: Stage, seconds: float) -> None:
        """Counts what connecting took."""
        if stage in CONNECTING:
            self._connect.observe(seconds)


def _story(job: Job) -> Mapping[str, object]:
    if not isinstance(job, Email):
        return {}
    claim = job.hand.claim
    return {
        "campaign_id": str(claim.campaign_id),
        "batch_id": claim.batch_id,
        "generation": claim.generation,
        "recipient_id": job.row.id,
    }

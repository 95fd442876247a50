"""The feedback service's metrics."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from shared.feedback.meaning import Kind
from shared.metrics import PREFIX, counter

RESULTS = ("recorded", "unverified", "repeated", "ignored", "forgotten")
REFUSALS = ("unknown_address", "wrong_token", "busy", "too_many_recipients", "too_long", "database")


class FeedbackMetrics:
    """The counters, gauges and histograms of one process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.reports = Counter(
            f"{PREFIX}_feedback_reports_total",
            "Reports taken in, by what they say and what came of them.",
            ["kind", "result"],
            registry=registry,
        )
        for kind in Kind:
            for result in RESULTS:
                self.reports.labels(kind.value, result)
        self.refused = counter(
            registry,
            f"{PREFIX}_feedback_refused_total",
            "Mails and recipients refused at the door, by reason.",
            "reason",
            REFUSALS,
        )
        self.connections = Gauge(
            f"{PREFIX}_feedback_connections", "Open connections that bring mail.", registry=registry
        )
        self.record_seconds = Histogram(
            f"{PREFIX}_feedback_record_seconds",
            "From the end of a mail to its record in the ledger.",
            buckets=(0.005, 0.02, 0.1, 0.5, 2, 10, 60),
            registry=registry,
        )

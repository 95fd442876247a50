"""The API's metrics."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from shared.metrics import PREFIX, counter

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0)


class ApiMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            f"{PREFIX}_http_requests_total",
            "HTTP requests by route template, method and status.",
            ["route", "method", "status"],
            registry=registry,
        )
        self.seconds = Histogram(
            f"{PREFIX}_http_request_seconds",
            "Seconds from a request's headers to the end of its answer. Imports and event streams may take long.",
            ["route", "method"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.imported = Counter(
            f"{PREFIX}_imported_rows_total",
            "Imported rows by format and outcome: `accepted`, `duplicate` or `invalid`.",
            ["format", "outcome"],
            registry=registry,
        )
        self.wrong_signatures = Counter(
            f"{PREFIX}_hook_wrong_signatures_total",
            "Messages at /hooks/ses that SNS has not signed, or that could not be verified.",
            registry=registry,
        )
        self.erasures = Gauge(f"{PREFIX}_erasures_unfinished", "People whose erasure is under way.", registry=registry)
        self.erased = Counter(f"{PREFIX}_erasures_total", "Erasures finished by this process.", registry=registry)
        self.complaint_rates = Gauge(
            f"{PREFIX}_complaint_rates",
            "Providers whose users called too many of a project's emails of the last two days spam: `alert` from 0.1 %"
            " on, `hold` from 0.3 % on.",
            ["level"],
            registry=registry,
        )
        for level in ("alert", "hold"):
            self.complaint_rates.labels(level)
        self.forgotten_rows = counter(
            registry,
            f"{PREFIX}_forgotten_rows_total",
            "Rows deleted because their campaign is past the retention of its project.",
            "table",
            ("recipient", "report"),
        )
        self.forgotten = Counter(
            f"{PREFIX}_forgotten_campaigns_total",
            "Campaigns marked as past the retention of their project.",
            registry=registry,
        )
        self.oldest_result = Gauge(
            f"{PREFIX}_oldest_result_seconds",
            "Seconds since the end of the oldest campaign that has its results; 0 without one.",
            registry=registry,
        )
        self.retention_overdue = Gauge(
            f"{PREFIX}_retention_overdue_campaigns",
            "Campaigns past the retention of their project that have their results still.",
            registry=registry,
        )
        self.undone = Counter(
            f"{PREFIX}_imports_undone_total",
            "Imports whose rows were removed again: `failed`, `cancelled` or `timed_out`.",
            ["outcome"],
            registry=registry,
        )

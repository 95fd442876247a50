"""The API's metrics."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from shared.metrics import PREFIX

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
        self.undone = Counter(
            f"{PREFIX}_imports_undone_total",
            "Imports whose rows were removed again: `failed`, `cancelled` or `timed_out`.",
            ["outcome"],
            registry=registry,
        )

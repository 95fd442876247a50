"""The metrics of every process. Each service adds its own to the same registry."""

from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, GCCollector, PlatformCollector, ProcessCollector

PREFIX = "vashsender"
RESCUES_HELP = "Batches rescued, by reason. A sender counts `restarted`: batches it held before it restarted."


class Metrics:
    """The metrics that all services share. The registry is not global, so every test starts with fresh ones."""

    def __init__(self, service: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        build = Gauge(f"{PREFIX}_build_info", "Always 1.", ["service", "version"], registry=self.registry)
        build.labels(service, version("vashsender")).set(1)
        self.wakeups = Counter(
            f"{PREFIX}_wakeups_total",
            "Ticks and rounds that found work, by what woke them: `event`, `clock` or `sweep`.",
            ["cause"],
            registry=self.registry,
        )
        for cause in ("event", "clock", "sweep"):
            self.wakeups.labels(cause)
        self.published = Counter(
            f"{PREFIX}_events_published_total",
            "Events published: `confirmed`, or `lost` (the services' clocks find in the ledger what they announced).",
            ["event", "outcome"],
            registry=self.registry,
        )
        self.consumed = Counter(
            f"{PREFIX}_events_consumed_total",
            "Events handled: `ok`, or `error` if the handler raised.",
            ["event", "outcome"],
            registry=self.registry,
        )
        self.broker_connected = Gauge(
            f"{PREFIX}_broker_connected", "1 while both broker connections are up.", registry=self.registry
        )
        self.database_writable = Gauge(
            f"{PREFIX}_database_writable",
            "0 while the database accepts no writes from this process: full, locked or away.",
            registry=self.registry,
        )

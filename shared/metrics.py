"""What every process measures. Each service adds its own instruments to the same registry."""

from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, GCCollector, PlatformCollector, ProcessCollector

PREFIX = "vashsender"
RESCUES_HELP = "Batches taken back from whoever held them, by reason; a sender that was `restarted` counts its own."


class Metrics:
    """The instruments all services share, on a registry of their own: nothing is global, so tests start afresh."""

    def __init__(self, service: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        build = Gauge(f"{PREFIX}_build_info", "Always 1.", ["service", "version"], registry=self.registry)
        build.labels(service, version("vashsender")).set(1)
        self.wakeups = Counter(
            f"{PREFIX}_wakeups_total",
            "Turns of work that found something to do, by what woke them: `event`, `clock` or `sweep`.",
            ["cause"],
            registry=self.registry,
        )
        for cause in ("event", "clock", "sweep"):
            self.wakeups.labels(cause)
        self.published = Counter(
            f"{PREFIX}_events_published_total",
            "Events handed to the broker: `confirmed`, or `lost` where it was away (the ledger's clock finds those).",
            ["event", "outcome"],
            registry=self.registry,
        )
        self.consumed = Counter(
            f"{PREFIX}_events_consumed_total",
            "Events taken from the broker: `ok`, or `error` where the handler raised.",
            ["event", "outcome"],
            registry=self.registry,
        )
        self.broker_connected = Gauge(
            f"{PREFIX}_broker_connected", "1 while both broker connections stand.", registry=self.registry
        )
        self.database_writable = Gauge(
            f"{PREFIX}_database_writable",
            "0 while the database refuses what this process writes: full, locked or away.",
            registry=self.registry,
        )

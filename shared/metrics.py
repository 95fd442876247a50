"""The metrics that all services share. Each service adds its own to the same registry."""

from collections.abc import Iterable
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, GCCollector, PlatformCollector, ProcessCollector

PREFIX = "vashsender"
RESCUES_HELP = "Batches rescued from their owners, by reason; a sender that was `restarted` counts its own."

BREAKER_TRIPS_HELP = "Campaigns that a breaker has paused: `relay` refuses nearly everyone, or `list` looks old."


def counter(registry: CollectorRegistry, name: str, documentation: str, label: str, values: Iterable[str]) -> Counter:
    """A counter that has these values of its label from the start: from 0 to 1 is an increase, from nothing is none."""
    made = Counter(name, documentation, [label], registry=registry)
    for value in values:
        made.labels(value)
    return made


class Metrics:
    """The shared metrics of one process, on a new registry: nothing is global, so each test starts empty."""

    def __init__(self, service: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        build = Gauge(f"{PREFIX}_build_info", "Always 1.", ["service", "version"], registry=self.registry)
        build.labels(service, version("vashsender")).set(1)
        self.wakeups = counter(
            self.registry,
            f"{PREFIX}_wakeups_total",
            "Ticks and rounds that found something to do, by what started them: `event`, `clock` or `sweep`.",
            "cause",
            ("event", "clock", "sweep"),
        )
        self.published = Counter(
            f"{PREFIX}_events_published_total",
            "Events published: `confirmed` by the broker, or `lost` while it was away (the clock makes up for those).",
            ["event", "outcome"],
            registry=self.registry,
        )
        self.consumed = Counter(
            f"{PREFIX}_events_consumed_total",
            "Events consumed: `ok`, `refused` (impossible, or a wrong account), `error` if the handler raised one.",
            ["event", "outcome"],
            registry=self.registry,
        )
        self.unserved = Counter(
            f"{PREFIX}_consumers_unserved_total",
            "Times that the process connected again because the events of a queue waited and its consumer got none.",
            ["queue"],
            registry=self.registry,
        )
        self.broker_connected = Gauge(
            f"{PREFIX}_broker_connected", "1 while both broker connections are open.", registry=self.registry
        )
        self.database_writable = Gauge(
            f"{PREFIX}_database_writable",
            "0 while this process cannot write to the database, because it is full, locked or away.",
            registry=self.registry,
        )

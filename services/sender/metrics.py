"""What a sender measures."""

from bisect import bisect_right
from collections import Counter as Counted
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.sender.results import Result
from shared.faults.breakers import Breaker
from shared.faults.meaning import Fault
from shared.metrics import BREAKER_TRIPS_HELP, PREFIX, RESCUES_HELP
from shared.settings import SenderSettings

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
GROUPS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
USUAL = (
    ("sent", "2"),
    ("deferred", "4"),
    ("deferred", "0"),
    ("failed", "5"),
    ("failed", "4"),
    ("failed", "0"),
    ("suppressed", "0"),
    ("unknown", "0"),
)
"""Shown from the start, at zero: Prometheus does not see an increase from a missing series."""


class EmailSeconds(Histogram):
    """A histogram that takes many values at once, in a sixth of the time that they take one by one."""

    def observe_all(self, values: Iterable[float]) -> None:
        ordered = sorted(values)
        counted = 0
        for bound, bucket in zip(self._upper_bounds, self._buckets, strict=True):
            up_to_bound = bisect_right(ordered, bound)
            if up_to_bound > counted:
                bucket.inc(up_to_bound - counted)
                counted = up_to_bound
        self._sum.inc(sum(ordered))


class Gathered:
    """Seconds that go into a histogram many at a time, because each email has some and Prometheus asks seldom."""

    __slots__ = ("_histogram", "_values", "add")

    def __init__(self, histogram: EmailSeconds) -> None:
        self._histogram = histogram
        self._values: list[float] = []
        self.add = self._values.append

    def pass_on(self) -> None:
        if self._values:
            self._histogram.observe_all(self._values)
            self._values.clear()


class SenderMetrics:
    """The sender's instruments. Emails are counted when the ledger has them, so the two agree."""

    def __init__(self, registry: CollectorRegistry, settings: SenderSettings) -> None:
        self.emails = Counter(
            f"{PREFIX}_emails_total",
            "Recipients recorded, by outcome and by the first digit of the relay's reply (0: no reply)."
            " A recipient that is deferred and sent later counts in both.",
            ["outcome", "reply_class"],
            registry=registry,
        )
        for outcome, reply_class in USUAL:
            self.emails.labels(outcome, reply_class)
        self.refusals = Counter(
            f"{PREFIX}_refusals_total",
            "Refusals by relays, by whose fault each is: see `docs/replies.md`."
            " An email that another relay or connection takes over counts once for each.",
            ["fault"],
            registry=registry,
        )
        for fault in Fault:
            self.refusals.labels(fault.value)
        self.breaker_trips = Counter(f"{PREFIX}_breaker_trips_total", BREAKER_TRIPS_HELP, ["kind"], registry=registry)
        self.breaker_trips.labels(Breaker.RELAY.value)
        self.delivery = EmailSeconds(
            f"{PREFIX}_delivery_seconds",
            "Seconds by phase: `queue` from claim to an email's first step, `connect` each step of opening a connection"
            " (TCP, banner, EHLO, TLS, AUTH), `send` from an email's first step to its verdict.",
            ["phase"],
            buckets=SECONDS,
            registry=registry,
        )
        self.queue_seconds = Gathered(self.delivery.labels("queue"))
        self.connect_seconds = self.delivery.labels("connect")
        self.send_seconds = Gathered(self.delivery.labels("send"))
        self.in_flight = Gauge(
            f"{PREFIX}_emails_in_flight", "Emails between first step and verdict.", registry=registry
        )
        self.memory = Gauge(
            f"{PREFIX}_mail_memory_bytes",
            "Bytes taken by `campaigns` that are loaded, and by `emails` in flight: see VASHSENDER_MAIL_MEMORY_BYTES.",
            ["kind"],
            registry=registry,
        )
        self.connections = Gauge(
            f"{PREFIX}_smtp_connections",
            "Connections by relay and state: `open`, and of these `busy` ones that carry an email.",
            ["relay", "state"],
            registry=registry,
        )
        self.relay_resting = Gauge(
            f"{PREFIX}_relay_resting", "1 while a relay rests after failures.", ["relay"], registry=registry
        )
        connections_limit = Gauge(
            f"{PREFIX}_smtp_connections_limit", "Connections a process may open to a relay.", registry=registry
        )
        self.slots = Counter(
            f"{PREFIX}_limit_slots_total",
            "Slots reserved under limits: `used` by an email that began, or `lost` because none was ready in time.",
            ["outcome"],
            registry=registry,
        )
        self.slots_used = self.slots.labels("used")
        self.slots_lost = self.slots.labels("lost")
        self.limits_used_up = Gauge(
            f"{PREFIX}_limits_used_up",
            "Limits per hour or day, of projects and relays, that are used up as this process knows.",
            registry=registry,
        )
        capacity = Gauge(f"{PREFIX}_batch_slots", "Batches this process can hold at once.", registry=registry)
        connections_limit.set(settings.smtp_connections)
        capacity.set(settings.batches_in_hand)
        self.batches = Gauge(
            f"{PREFIX}_batches_in_hand",
            "Places taken: held batches whose emails can start. A batch that only waits, for its rate limit or replies,"
            " has no place.",
            registry=registry,
        )
        self.batch = Histogram(
            f"{PREFIX}_batch_seconds",
            "Seconds a batch was held.",
            buckets=(0.1, 0.5, 1, 5, 15, 30, 60, 120, 240, 480, 600),
            registry=registry,
        )
        self.commit = Histogram(
            f"{PREFIX}_commit_seconds", "Seconds of a group commit.", buckets=SECONDS, registry=registry
        )
        self.group = Histogram(
            f"{PREFIX}_commit_group_size", "Results in a group commit.", buckets=GROUPS, registry=registry
        )
        self.lease_age = Gauge(
            f"{PREFIX}_lease_age_seconds", "Seconds since the renewal of the oldest lease held.", registry=registry
        )
        self.progress_age = Gauge(
            f"{PREFIX}_progress_age_seconds", "Longest time a held batch has had no result.", registry=registry
        )
        self.lease_lost = Counter(
            f"{PREFIX}_lease_lost_total",
            "Batches that another sender took while this one held them.",
            registry=registry,
        )
        self.known_duplicates = Counter(
            f"{PREFIX}_known_duplicates_total",
            "Emails a relay accepted although the ledger already had them as sent.",
            registry=registry,
        )
        rescues = Counter(f"{PREFIX}_rescues_total", RESCUES_HELP, ["reason"], registry=registry)
        self.resumed = rescues.labels("restarted")
        self.retries = Counter(
            f"{PREFIX}_retries_total", "Attempts that were deferred, to be repeated.", registry=registry
        )

    def pass_on(self) -> None:
        """Call it often: what was gathered is not shown before."""
        self.queue_seconds.pass_on()
        self.send_seconds.pass_on()

    def recorded(self, results: Iterable[Result]) -> None:
        """Counts what a commit has stored."""
        for (status, reply_class), emails in Counted((one.status, (one.code or 0) // 100) for one in results).items():
            self.emails.labels(status, str(reply_class)).inc(emails)
            if status == "deferred":
                self.retries.inc(emails)

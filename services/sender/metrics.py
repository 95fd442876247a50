"""What a sender measures."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.sender.results import Result
from shared.metrics import PREFIX, RESCUES_HELP
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
"""Shown from the start, at zero: an increase from nothing is one that Prometheus does not see."""


class SenderMetrics:
    """The sender's instruments. Emails are counted when the ledger has them, so the two agree."""

    def __init__(self, registry: CollectorRegistry, settings: SenderSettings) -> None:
        self.emails = Counter(
            f"{PREFIX}_emails_total",
            "Results recorded, by outcome and first digit of the relay's reply (0: no reply)."
            " A recipient that is deferred and later sent counts in both.",
            ["outcome", "reply_class"],
            registry=registry,
        )
        for outcome, reply_class in USUAL:
            self.emails.labels(outcome, reply_class)
        self.delivery = Histogram(
            f"{PREFIX}_delivery_seconds",
            "Seconds by phase: `queue` from the claim to an email's first command, `connect` for each step of opening a"
            " connection (TCP, banner, EHLO, TLS, AUTH), `send` from an email's first command to its result.",
            ["phase"],
            buckets=SECONDS,
            registry=registry,
        )
        self.queue_seconds = self.delivery.labels("queue")
        self.connect_seconds = self.delivery.labels("connect")
        self.send_seconds = self.delivery.labels("send")
        self.in_flight = Gauge(
            f"{PREFIX}_emails_in_flight", "Emails between their first command and their result.", registry=registry
        )
        self.connections = Gauge(
            f"{PREFIX}_smtp_connections",
            "Connections by relay and state: `open`, and of these the `busy` ones with an email in flight.",
            ["relay", "state"],
            registry=registry,
        )
        self.relay_resting = Gauge(
            f"{PREFIX}_relay_resting", "1 while a relay rests after failures.", ["relay"], registry=registry
        )
        connections_limit = Gauge(
            f"{PREFIX}_smtp_connections_limit", "Connections this sender may open to a relay.", registry=registry
        )
        capacity = Gauge(f"{PREFIX}_batch_slots", "Capacity: batches this sender may hold at once.", registry=registry)
        connections_limit.set(settings.smtp_connections)
        capacity.set(settings.batches_in_hand)
        self.batches = Gauge(
            f"{PREFIX}_batches_in_hand",
            "Places taken: batches whose emails can start. One that only waits for its rate or replies takes none.",
            registry=registry,
        )
        self.batch = Histogram(
            f"{PREFIX}_batch_seconds",
            "Seconds from claiming a batch to letting go of it.",
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
            f"{PREFIX}_lease_age_seconds",
            "Seconds since the last renewal of the held lease that was renewed longest ago.",
            registry=registry,
        )
        self.progress_age = Gauge(
            f"{PREFIX}_progress_age_seconds",
            "Longest time in seconds since a held batch had its last result.",
            registry=registry,
        )
        self.lease_lost = Counter(
            f"{PREFIX}_lease_lost_total",
            "Batches that another owner had taken while this sender held them.",
            registry=registry,
        )
        self.known_duplicates = Counter(
            f"{PREFIX}_known_duplicates_total",
            "Emails that a relay accepted although the ledger already had them as sent.",
            registry=registry,
        )
        rescues = Counter(f"{PREFIX}_rescues_total", RESCUES_HELP, ["reason"], registry=registry)
        self.resumed = rescues.labels("restarted")
        self.retries = Counter(f"{PREFIX}_retries_total", "Attempts that were deferred.", registry=registry)

    def recorded(self, results: Iterable[Result]) -> None:
        """Counts what a commit has stored."""
        for result in results:
            self.emails.labels(result.status, str((result.code or 0) // 100)).inc()
            if result.status == "deferred":
                self.retries.inc()

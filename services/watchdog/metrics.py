"""The watchdog's metrics. Gauges are read from the ledger when metrics are scraped."""

from prometheus_client import Counter, Gauge, Histogram
from sqlalchemy import func, select
from sqlmodel import col

from services.watchdog.findings import REPAIR_REASONS, Finding, Kind, RescueReason
from services.watchdog.heartbeats import Heartbeats
from shared.ledger.batches import in_state
from shared.ledger.database import Ledger, db_now
from shared.ledger.models import Batch
from shared.ledger.states import BatchState
from shared.metrics import PREFIX, RESCUES_HELP, Metrics


class WatchdogMetrics:
    """The counters, gauges and histograms of one process, and the query that fills the gauges."""

    def __init__(self, common: Metrics, ledger: Ledger, heartbeats: Heartbeats) -> None:
        registry = common.registry
        self.common = common
        self._ledger = ledger
        self._heartbeats = heartbeats
        self.rescues = Counter(f"{PREFIX}_rescues_total", RESCUES_HELP, ["reason"], registry=registry)
        for rescue_reason in RescueReason:
            self.rescues.labels(rescue_reason.value)
        self.repairs = Counter(
            f"{PREFIX}_repairs_total", "Repairs of the ledger, by reason.", ["reason"], registry=registry
        )
        for reason in REPAIR_REASONS:
            self.repairs.labels(reason.value)
        self.sweep_seconds = Histogram(
            f"{PREFIX}_sweep_seconds",
            "Duration of a pass of the sweep over all campaigns that are not closed.",
            buckets=(0.05, 0.25, 1, 3, 5, 15, 60, 300, 1800),
            registry=registry,
        )
        self.swept_at = Gauge(
            f"{PREFIX}_last_sweep_timestamp_seconds", "When the last pass of the sweep ended.", registry=registry
        )
        self.blocked = Gauge(
            f"{PREFIX}_campaigns_blocked",
            "Campaigns that could not continue, at the last pass of the sweep.",
            registry=registry,
        )
        self.senders = Gauge(f"{PREFIX}_senders", "Live senders, by their heartbeats.", registry=registry)
        self.sender_capacity = Gauge(
            f"{PREFIX}_sender_slots", "Batches that the live senders can hold at once.", registry=registry
        )
        self.heartbeat_age = Gauge(
            f"{PREFIX}_heartbeat_age_seconds",
            "Seconds since the last heartbeat of the live sender heard from longest ago, unless it is stopping.",
            registry=registry,
        )
        self.progress_age = Gauge(
            f"{PREFIX}_batch_idle_seconds",
            "Longest time since a result of any batch that heartbeats report.",
            registry=registry,
        )
        self.lease_left = Gauge(
            f"{PREFIX}_lease_left_seconds",
            "Seconds until the first lease ends; negative once it has expired. 0 if nothing is being sent.",
            registry=registry,
        )

    def count(self, finding: Finding) -> None:
        counter = self.rescues if finding.kind is Kind.RESCUE else self.repairs
        counter.labels(finding.reason).inc()

    async def refresh(self) -> None:
        """Fills the gauges."""
        living = self._heartbeats.living()
        self.senders.set(len(living))
        self.sender_capacity.set(sum(beat.slots for beat in living))
        self.heartbeat_age.set(self._heartbeats.stalest_seconds())
        self.progress_age.set(max((batch.idle_seconds for beat in living for batch in beat.batches), default=0.0))
        async with self._ledger.read() as connection:
            left = await connection.scalar(
                select(func.min(col(Batch.lease_until)) - db_now()).where(in_state(BatchState.SENDING))
            )
        self.lease_left.set(left or 0.0)

"""The dispatcher's metrics. Gauges are read from the ledger when metrics are scraped, not in every round."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from prometheus_client import Counter, Gauge, Histogram
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from shared.faults.breakers import Breaker
from shared.ledger import backlog
from shared.ledger.backlog import TO_BE_SENT, UnderWay
from shared.ledger.counts import STATUSES, Counts, counts_of
from shared.ledger.database import Ledger
from shared.ledger.models import Campaign
from shared.ledger.repair import Reason
from shared.ledger.states import FINAL, OPEN, CampaignStatus
from shared.metrics import BREAKER_TRIPS_HELP, PREFIX, Metrics, counter

CAMPAIGNS_SHOWN = 50


class DispatcherMetrics:
    """The counters, gauges and histograms of one process, and the queries that fill the gauges."""

    def __init__(self, common: Metrics, ledger: Ledger) -> None:
        registry = common.registry
        self.common = common
        self._ledger = ledger
        self.released = counter(
            registry,
            f"{PREFIX}_batches_released_total",
            "Batches released: `fresh` for the first time, `again` after a retry, pause, rescue or recall.",
            "kind",
            ("fresh", "again"),
        )
        self.released_emails = Counter(
            f"{PREFIX}_released_emails_total", "Open recipients in released batches.", registry=registry
        )
        self.recalled = Counter(
            f"{PREFIX}_batches_recalled_total",
            "Released batches taken back before a sender claimed them, because another campaign had nothing out.",
            registry=registry,
        )
        self.release_seconds = Histogram(
            f"{PREFIX}_release_seconds", "Time to create and release batches in one transaction.", registry=registry
        )
        self.round_seconds = Histogram(
            f"{PREFIX}_round_seconds",
            "Duration of a round: one look at what is to be done, with the releases that follow.",
            registry=registry,
        )
        self.job_seconds = Histogram(
            f"{PREFIX}_turn_seconds",
            "Duration of a job: stopping, reopening or closing one campaign.",
            buckets=(0.01, 0.05, 0.25, 1, 5, 30, 120, 600, 1800),
            registry=registry,
        )
        self.jobs_abandoned = Counter(
            f"{PREFIX}_turns_abandoned_total", "Jobs that were abandoned at their hard deadline.", registry=registry
        )
        self.closed = Counter(
            f"{PREFIX}_campaigns_closed_total", "Campaigns closed, by final status.", ["status"], registry=registry
        )
        for status in FINAL:
            self.closed.labels(status.value)
        self.breaker_trips = Counter(f"{PREFIX}_breaker_trips_total", BREAKER_TRIPS_HELP, ["kind"], registry=registry)
        for breaker in Breaker:
            self.breaker_trips.labels(breaker.value)
        self.events_placed = Counter(
            f"{PREFIX}_outbox_events_total", "Events for projects that were given their position.", registry=registry
        )
        self.events_forgotten = Counter(
            f"{PREFIX}_outbox_rows_deleted_total",
            "Rows of events that were deleted after their retention.",
            registry=registry,
        )
        self.repairs = Counter(
            f"{PREFIX}_repairs_total", "Repairs of the ledger, by reason.", ["reason"], registry=registry
        )
        for reason in Reason:
            self.repairs.labels(reason.value)
        self.capacity = Gauge(
            f"{PREFIX}_live_slots", "Batches that the live senders can hold at once.", registry=registry
        )
        self.window = Gauge(f"{PREFIX}_release_window_batches", "Batches that may be out at once.", registry=registry)
        self.out = Gauge(f"{PREFIX}_batches_out", "Batches released or being sent.", registry=registry)
        self.campaigns = Gauge(
            f"{PREFIX}_campaigns", "Campaigns that are not closed, by status.", ["status"], registry=registry
        )
        self.backlog = Gauge(
            f"{PREFIX}_backlog_emails",
            "Emails that more senders could send now: the number to scale on. Of a campaign with a rate limit at most a"
            " minute's worth; retries once they are due.",
            registry=registry,
        )
        self.open = Gauge(
            f"{PREFIX}_open_emails",
            "Recipients still to be sent to, of campaigns under way: `pending`, or `deferred` until their retry.",
            ["status"],
            registry=registry,
        )
        self.oldest = Gauge(
            f"{PREFIX}_oldest_unsent_seconds",
            "Seconds since the start of the oldest queued or sending campaign that still has open recipients.",
            registry=registry,
        )
        self.deadline_used = Gauge(
            f"{PREFIX}_deadline_used_ratio",
            "Largest share of the time until `deliver_by` that such a campaign has used; at 1 its open emails expire.",
            registry=registry,
        )
        self.progress = Gauge(
            f"{PREFIX}_campaign_emails",
            f"Recipients by status of the newest {CAMPAIGNS_SHOWN} campaigns under way, until they close.",
            ["campaign", "name", "status"],
            registry=registry,
        )

    async def refresh(self) -> None:
        """Fills the gauges from the ledger."""
        async with self._ledger.read() as connection:
            await self._look(connection)

    async def _look(self, connection: AsyncConnection) -> None:
        open_statuses = [status for status in CampaignStatus if status not in FINAL]
        found = await connection.execute(
            select(col(Campaign.status), func.count())
            .where(col(Campaign.status).in_([status.value for status in open_statuses]))
            .group_by(col(Campaign.status))
        )
        by_status = {row[0]: row[1] for row in found}
        for status in open_statuses:
            self.campaigns.labels(status.value).set(by_status.get(status.value, 0))
        under_way = await backlog.under_way(connection)
        counts = await counts_of(connection, [campaign.id for campaign in under_way])
        due = await backlog.due_retries(connection)
        self._show_backlog([campaign for campaign in under_way if campaign.status in TO_BE_SENT], counts, due)
        for one in OPEN:
            self.open.labels(one.value).set(sum(said[one.value] for said in counts.values()))
        self.progress.clear()
        for campaign in under_way[:CAMPAIGNS_SHOWN]:
            for name in STATUSES:
                self.progress.labels(str(campaign.id), campaign.name, name).set(counts[campaign.id][name])

    def _show_backlog(
        self, campaigns: Sequence[UnderWay], counts: Mapping[UUID, Counts], due: Mapping[UUID, int]
    ) -> None:
        self.backlog.set(backlog.ready_emails(campaigns, counts, due))
        unsent = [one for one in campaigns if any(counts[one.id][status.value] for status in OPEN)]
        self.oldest.set(max((one.age for one in unsent), default=0.0))
        self.deadline_used.set(
            max((one.age / max(one.age + one.left, 1.0) for one in unsent if one.left is not None), default=0.0)
        )

"""What the dispatcher measures. Gauges of the ledger are looked up when metrics are read, not in every round."""

import asyncio

from prometheus_client import Counter, Gauge, Histogram
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from shared import logs
from shared.ledger.counts import counts_of
from shared.ledger.database import Ledger, db_now
from shared.ledger.models import Campaign
from shared.ledger.repair import Reason
from shared.ledger.states import FINAL, OPEN, CampaignStatus, RecipientStatus
from shared.metrics import PREFIX, Metrics

LOOK_SECONDS = 2.0

log = logs.get()


class DispatcherMetrics:
    """Instruments on the process's registry, and the look that fills the gauges."""

    def __init__(self, common: Metrics, ledger: Ledger) -> None:
        registry = common.registry
        self.common = common
        self._ledger = ledger
        self.released = Counter(
            f"{PREFIX}_batches_released_total",
            "Batches released: `fresh`, or `again` after a retry, a pause or a rescue.",
            ["kind"],
            registry=registry,
        )
        for kind in ("fresh", "again"):
            self.released.labels(kind)
        self.released_emails = Counter(
            f"{PREFIX}_released_emails_total", "Open recipients in the batches released.", registry=registry
        )
        self.release_seconds = Histogram(
            f"{PREFIX}_release_seconds", "Cutting and releasing one batch.", registry=registry
        )
        self.round_seconds = Histogram(f"{PREFIX}_round_seconds", "One look at all open campaigns.", registry=registry)
        self.turn_seconds = Histogram(
            f"{PREFIX}_turn_seconds",
            "One longer turn on one campaign: stopping, reopening or closing it.",
            buckets=(0.01, 0.05, 0.25, 1, 5, 30, 120, 600, 1800),
            registry=registry,
        )
        self.turns_abandoned = Counter(
            f"{PREFIX}_turns_abandoned_total", "Turns that met their hard deadline.", registry=registry
        )
        self.closed = Counter(
            f"{PREFIX}_campaigns_closed_total", "Campaigns closed, by outcome.", ["status"], registry=registry
        )
        for status in FINAL:
            self.closed.labels(status.value)
        self.repairs = Counter(
            f"{PREFIX}_repairs_total", "Things mended in the ledger, by reason.", ["reason"], registry=registry
        )
        for reason in Reason:
            self.repairs.labels(reason.value)
        self.slots = Gauge(f"{PREFIX}_live_slots", "Batches the live senders can hold at once.", registry=registry)
        self.window = Gauge(f"{PREFIX}_release_window_batches", "Batches that may be out at once.", registry=registry)
        self.out = Gauge(f"{PREFIX}_batches_out", "Batches released or being sent.", registry=registry)
        self.campaigns = Gauge(
            f"{PREFIX}_campaigns", "Campaigns that are not closed, by status.", ["status"], registry=registry
        )
        self.backlog = Gauge(
            f"{PREFIX}_backlog_emails",
            "Open recipients of the campaigns that are being sent: what a scaler needs to know.",
            registry=registry,
        )
        self.deferred = Gauge(
            f"{PREFIX}_deferred_emails", "Recipients of those campaigns that wait for a retry.", registry=registry
        )
        self.oldest = Gauge(
            f"{PREFIX}_oldest_unsent_seconds",
            "Age, since sending began, of the oldest campaign that has open recipients.",
            registry=registry,
        )

    async def refresh(self) -> None:
        """Looks at the ledger; where it is away, the gauges keep what they last showed."""
        try:
            async with asyncio.timeout(LOOK_SECONDS), self._ledger.read() as connection:
                await self._look(connection)
        except Exception as error:  # noqa: BLE001 - metrics must be readable whatever is broken
            log.warning("metrics.stale", error=f"{type(error).__name__}: {error}".splitlines()[0])

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
        sending = (
            await connection.execute(
                select(col(Campaign.id), db_now() - func.coalesce(col(Campaign.started_at), db_now())).where(
                    col(Campaign.status).in_([CampaignStatus.QUEUED.value, CampaignStatus.SENDING.value])
                )
            )
        ).all()
        counts = await counts_of(connection, [row[0] for row in sending])
        unsent = {campaign_id: sum(said[status] for status in OPEN) for campaign_id, said in counts.items()}
        self.backlog.set(sum(unsent.values()))
        self.deferred.set(sum(said[RecipientStatus.DEFERRED.value] for said in counts.values()))
        self.oldest.set(max((age for campaign_id, age in sending if unsent.get(campaign_id)), default=0.0))

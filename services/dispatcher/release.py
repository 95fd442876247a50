"""Releasing one batch of a campaign: a waiting one that is due, or a new one for its next recipients."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from services.dispatcher.survey import AHEAD_SECONDS, Limit, OpenCampaign, scopes
from shared.events import BatchReleased
from shared.ledger import batches, campaigns, rate_limits
from shared.ledger.batches import in_state
from shared.ledger.database import Ledger, db_now
from shared.ledger.models import Batch, Campaign
from shared.ledger.rate_limits import NotFreeError
from shared.ledger.states import BatchState, CampaignStatus
from shared.settings import DispatcherSettings

LEAST_SPLIT = 50
"""A small campaign is split so that every sender gets a batch, but into batches of at least this many recipients."""


@dataclass(frozen=True, slots=True)
class Released:
    """A batch that was released."""

    ticket: BatchReleased
    emails: int  # open recipients in it
    fresh: bool  # a new batch, not a retry


@dataclass(frozen=True, slots=True)
class Reservation:
    """The rate limits under which a batch reserves room."""

    scopes: Sequence[str]
    after_seconds: float  # seconds from now before which it may not start

    async def take(self, connection: AsyncConnection, emails: int) -> tuple[Any, float | None]:
        """The moment when the first email may leave (a number, or SQL for now), and the rate; None without a limit."""
        if not self.scopes:
            return db_now(), None
        return await rate_limits.reserve(
            connection, self.scopes, emails, after_seconds=self.after_seconds, ahead_seconds=AHEAD_SECONDS
        )


async def release_one(
    ledger: Ledger,
    settings: DispatcherSettings,
    campaign: OpenCampaign,
    *,
    capacity: int,
    limits: Mapping[str, Limit],
    fresh_first: bool,
) -> Released | None:
    """Releases one batch in one transaction. None if nothing is due, a limit is not free, or the campaign has moved on.

    Of two dispatchers that release the same batch at the same time, one gets None."""
    under = [scope for scope in scopes(campaign) if scope in limits]
    rate = min((limits[scope].emails_per_second for scope in under), default=campaign.emails_per_second)
    if campaign.emails_per_second is not None and under[:1] != [own := rate_limits.campaign_scope(campaign.id)]:
        async with ledger.write() as connection:
            await rate_limits.add_missing(connection, own, campaign.emails_per_second)
        under.insert(0, own)
        rate = min(rate or campaign.emails_per_second, campaign.emails_per_second)
    emails = batch_emails(settings, campaign.total, capacity, rate)
    limit = Reservation(under, max((limits[scope].pushed_back for scope in under if scope in limits), default=0.0))
    try:
        async with ledger.write() as connection:
            released = None
            if campaign.due and not fresh_first:
                released = await _release_waiting(connection, campaign, limit)
            if released is None and campaign.uncut:
                released = await _release_fresh(connection, campaign, limit, emails)
            if released is None and campaign.due and fresh_first:
                released = await _release_waiting(connection, campaign, limit)
            return released
    except NotFreeError:
        return None


def batch_emails(settings: DispatcherSettings, total: int, capacity: int, rate: float | None) -> int:
    """The size of the next batch of a campaign with `total` recipients."""
    share = math.ceil(total / max(capacity, 1))
    emails = min(settings.batch_size, max(share, LEAST_SPLIT))
    if rate is not None:
        emails = min(emails, math.floor(rate * settings.limited_batch_seconds))
    return max(emails, 1)


async def _release_waiting(connection: AsyncConnection, campaign: OpenCampaign, limit: Reservation) -> Released | None:
    """Locks the limits, then the batch."""
    due = (
        await connection.execute(
            select(
                col(Batch.id),
                col(Batch.generation),
                col(Batch.size),
                col(Batch.due_at),
                (col(Batch.pending) + col(Batch.deferred)).label("open"),
            )
            .where(
                col(Batch.campaign_id) == campaign.id,
                in_state(BatchState.WAITING),
                col(Batch.due_at) <= db_now(),
            )
            .order_by(col(Batch.due_at))
            .limit(1)
        )
    ).first()
    if due is None:
        return None
    starts_at, rate = await limit.take(connection, due.open)
    due_at = due.due_at if rate is None else max(due.due_at, starts_at)
    span = _span(due.size, rate)
    if not await batches.release(connection, due.id, due.generation, due_at=due_at, span_seconds=span):
        raise NotFreeError  # another dispatcher was first: rolls the reservation back
    ticket = BatchReleased(batch_id=due.id, campaign_id=campaign.id, generation=due.generation + 1)
    return Released(ticket, due.open, fresh=False)


async def _release_fresh(
    connection: AsyncConnection, campaign: OpenCampaign, limit: Reservation, emails: int
) -> Released | None:
    """Creates the next batch and moves the cursor, by compare-and-swap. Locks the campaign, then the limits."""
    cut = await campaigns.next_range(connection, campaign.id, campaign.cursor, emails)
    if cut is None:
        return None
    unmoved = col(Campaign.cursor) == campaign.cursor
    is_sending = col(Campaign.status) == CampaignStatus.SENDING.value
    if not await campaigns.move_cursor(connection, campaign.id, cut.last_id, unmoved, is_sending):
        return None
    starts_at, rate = await limit.take(connection, cut.size)
    batch_id = await batches.create(
        connection,
        campaign.id,
        cut,
        BatchState.RELEASED,
        pending=cut.size,
        released_at=db_now(),
        due_at=starts_at,
        span_seconds=_span(cut.size, rate),
    )
    campaign.cursor = cut.last_id
    return Released(BatchReleased(batch_id=batch_id, campaign_id=campaign.id, generation=1), cut.size, fresh=True)


def _span(size: int, rate: float | None) -> float | None:
    """Seconds over which a whole batch is spread.

    A sender starts its emails span / size apart, so the rest of a batch takes no longer than was reserved for it."""
    return None if rate is None else size / rate

"""Releasing batches of a campaign: a waiting one that is due, or new ones for its next recipients. And recalling some
that no sender has claimed yet."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from uuid import UUID

from sqlalchemy import bindparam, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from services.dispatcher.survey import OpenCampaign
from shared import logs
from shared.events import BatchReleased
from shared.ledger import batches, campaigns, rate_limits, timeline
from shared.ledger.batches import in_state
from shared.ledger.database import Ledger, db_now
from shared.ledger.models import Batch
from shared.ledger.states import BatchState, CampaignStatus
from shared.settings import DispatcherSettings

LEAST_SPLIT = 50
"""A small campaign is split so that every sender gets a batch, but into batches of at least this many recipients."""

MOST_TIMES, FAST_SECONDS = 4, 0.5
"""A batch may be up to so many times as large as usual if a sender is done with it in about this time, so that others
do not wait long for its place."""

CUT_RECIPIENTS = 100_000
"""Recipients of batches that are created in one transaction, unless one batch has more."""

log = logs.get()


@dataclass(frozen=True, slots=True)
class Released:
    """A batch that was released."""

    ticket: BatchReleased
    emails: int  # open recipients in it
    fresh: bool  # a new batch, not a retry


async def release(
    ledger: Ledger,
    settings: DispatcherSettings,
    campaign: OpenCampaign,
    *,
    most: int,
    capacity: int,
    rate: float | None,
    pace: float,
    left: int,
    lacks_limit: bool,
    fresh_first: bool,
) -> Sequence[Released]:
    """Releases a waiting batch that is due, or up to `most` new ones in one transaction. Nothing if none is due, or the
    campaign has moved on.

    `rate` is the lowest that the campaign is under, `pace` the emails of it that a sender sends per second, `left`
    about how many of its recipients are in no batch yet. It `lacks_limit` if its own rate is not in the ledger yet. Of
    two dispatchers that release the same batch at the same time, one releases nothing."""
    emails = batch_emails(settings, campaign.total, left, capacity, rate, pace)
    if lacks_limit and campaign.emails_per_second is not None:
        async with ledger.write() as connection:
            own = rate_limits.campaign_scope(campaign.id)
            await rate_limits.add_missing(connection, own, campaign.emails_per_second)
    released: Sequence[Released] = ()
    if campaign.due and not fresh_first:
        released = await _release_waiting(ledger, campaign, rate)
    if not released and campaign.uncut:
        released = await _release_fresh(ledger, campaign, most, emails, rate)
    if not released and campaign.due and fresh_first:
        released = await _release_waiting(ledger, campaign, rate)
    return released


async def recall(ledger: Ledger, campaign_id: UUID, most: int) -> Sequence[int]:
    """Takes back the batches without a rate limit that were released last and that no sender has claimed, `most` at
    most; they are due at once. Returns how many open recipients each has. Their tickets are stale then."""
    async with ledger.write() as connection:
        open_rows = (col(Batch.pending) + col(Batch.deferred)).label("open")
        unclaimed = (
            col(Batch.campaign_id) == campaign_id,
            in_state(BatchState.RELEASED),
            col(Batch.span_seconds).is_(None),
        )
        newest = select(col(Batch.id), open_rows).where(*unclaimed).order_by(col(Batch.released_at).desc()).limit(most)
        found = {row.id: row.open for row in await connection.execute(newest)}
        recalled = await batches.requeue(connection, col(Batch.id).in_(list(found)), *unclaimed) if found else []
        return [found[one.batch_id] for one in recalled]


def batch_emails(
    settings: DispatcherSettings, total: int, left: int, capacity: int, rate: float | None, pace: float
) -> int:
    """The size of the next batch of a campaign with `total` recipients, of which `left` are in no batch yet.

    What is left is shared among the places of senders, so that none is idle for long at the end."""
    usual, places = settings.batch_size, max(capacity, 1)
    least = min(usual, max(math.ceil(total / places), LEAST_SPLIT))
    if rate is not None:
        return max(min(least, math.floor(rate * settings.limited_batch_seconds)), 1)
    fast = math.floor(pace * FAST_SECONDS)
    if fast <= least:
        return least
    # Rounded, so that a pace a little lower does not make twice as many batches.
    turns = max(round(left / (fast * places)), math.ceil(left / (MOST_TIMES * usual * places)), 1)
    return max(least, math.ceil(left / (turns * places)))


async def _release_waiting(ledger: Ledger, campaign: OpenCampaign, rate: float | None) -> Sequence[Released]:
    async with ledger.write() as connection:
        due = (await connection.execute(_FIRST_DUE, {"campaign_id": campaign.id})).first()
        if due is None:
            return ()
        if due.fruitless >= batches.MOST_FRUITLESS:
            await _pause(connection, campaign.id, due.id)
            return ()
        span = None if rate is None else due.size / rate
        if due.rolled_up:
            await batches.lock(connection, due.id)
        if not await batches.release(connection, due.id, due.generation, due_at=due.due_at, span_seconds=span):
            return ()  # another dispatcher was first
    ticket = BatchReleased(batch_id=due.id, campaign_id=campaign.id, generation=due.generation + 1)
    return [Released(ticket, due.open, fresh=False)]


_FIRST_DUE = (
    select(
        col(Batch.id),
        col(Batch.generation),
        col(Batch.size),
        col(Batch.due_at),
        col(Batch.fruitless),
        col(Batch.rolled_up),
        (col(Batch.pending) + col(Batch.deferred)).label("open"),
    )
    .where(
        col(Batch.campaign_id) == bindparam("campaign_id"),
        in_state(BatchState.WAITING),
        col(Batch.due_at) <= db_now(),
    )
    .order_by(col(Batch.due_at))
    .limit(1)
)


async def _pause(connection: AsyncConnection, campaign_id: UUID, batch_id: int) -> None:
    """Pauses a campaign one of whose batches may stop or end each sender that holds it. After a resume the batch gets
    as many tries again."""
    reason = (
        f"Batch {batch_id} was taken back again and again from senders that made no progress with it:"
        " its content may stop them. Look at the senders' logs, then resume."
    )
    paused, sending = CampaignStatus.PAUSED, (CampaignStatus.SENDING,)
    if not await campaigns.move(connection, campaign_id, paused, from_=sending, reason=reason):
        return
    await batches.forgive(connection, batch_id)
    await timeline.record(connection, campaign_id, "paused", reason)
    log.warning("campaign.paused", campaign_id=str(campaign_id), batch_id=batch_id, reason="fruitless rescues")


async def _release_fresh(
    ledger: Ledger, campaign: OpenCampaign, most: int, emails: int, rate: float | None
) -> Sequence[Released]:
    """Creates the next batches and moves the cursor, by compare-and-swap."""
    new = await ledger.write_at_once(
        partial(
            batches.cut,
            campaign_id=campaign.id,
            after=campaign.cursor,
            batches=max(min(most, CUT_RECIPIENTS // emails), 1),
            emails=emails,
            rate=rate,
        )
    )
    if new:
        campaign.cursor = new[-1].last_id
        campaign.uncut = new[-1].size == emails
    tickets = [BatchReleased(batch_id=cut.batch_id, campaign_id=campaign.id, generation=1) for cut in new]
    return [Released(ticket, cut.size, fresh=True) for ticket, cut in zip(tickets, new, strict=True)]

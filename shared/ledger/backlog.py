"""The backlog: emails that could go out now if more senders ran. Senders are scaled on it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from shared.ledger.batches import in_state
from shared.ledger.campaigns import not_closed
from shared.ledger.counts import Counts, counts_of
from shared.ledger.database import db_now
from shared.ledger.models import Batch, Campaign
from shared.ledger.states import LIVE, CampaignStatus, RecipientStatus

RATE_SECONDS = 60.0
"""A campaign with a rate limit counts with what it may send in this time."""
TO_BE_SENT = (CampaignStatus.QUEUED, CampaignStatus.SENDING)


@dataclass(frozen=True, slots=True)
class UnderWay:
    """A campaign that is not closed."""

    id: UUID
    name: str
    status: str
    emails_per_second: float | None
    #: Seconds since it started.
    age: float
    #: Seconds until deliver_by.
    left: float | None


async def under_way(connection: AsyncConnection) -> Sequence[UnderWay]:
    """Campaigns under way, the newest first."""
    found = await connection.execute(
        select(
            col(Campaign.id),
            col(Campaign.name),
            col(Campaign.status),
            col(Campaign.emails_per_second),
            db_now() - func.coalesce(col(Campaign.started_at), db_now()),
            col(Campaign.deliver_by) - db_now(),
        )
        .where(not_closed(), col(Campaign.status) != CampaignStatus.SCHEDULED.value)
        .order_by(col(Campaign.id).desc())
    )
    return [UnderWay(*row) for row in found]


async def due_retries(connection: AsyncConnection) -> Mapping[UUID, int]:
    """Deferred recipients in batches that are due, by campaign."""
    found = await connection.execute(
        select(col(Batch.campaign_id), func.sum(col(Batch.deferred)))
        .where(in_state(*LIVE), col(Batch.due_at) <= db_now())
        .group_by(col(Batch.campaign_id))
    )
    return {row[0]: int(row[1]) for row in found}


def ready_emails(campaigns: Sequence[UnderWay], counts: Mapping[UUID, Counts], due: Mapping[UUID, int]) -> int:
    """Emails of these campaigns that could go out now. A rate limit counts for at most RATE_SECONDS."""
    total = 0
    for one in campaigns:
        if one.status in TO_BE_SENT:
            ready = counts[one.id][RecipientStatus.PENDING.value] + due.get(one.id, 0)
            limit = one.emails_per_second
            total += ready if limit is None else min(ready, ceil(limit * RATE_SECONDS))
    return total


async def emails(connection: AsyncConnection) -> int:
    """The backlog of all campaigns."""
    campaigns = [one for one in await under_way(connection) if one.status in TO_BE_SENT]
    counts = await counts_of(connection, [one.id for one in campaigns])
    return ready_emails(campaigns, counts, await due_retries(connection))

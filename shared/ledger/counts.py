"""Recipients of a campaign by status: the sums over its batches, plus the recipients that no batch covers yet."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from sqlalchemy import bindparam, func, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from shared.ledger.models import Batch, Campaign
from shared.ledger.states import RecipientStatus

Counts = Mapping[str, int]
"""`total`, one number for each RecipientStatus, which add up to `total`, and one for each of REPORTED."""

STATUSES = tuple(status.value for status in RecipientStatus)

REPORTED = ("bounced", "complained", "unsubscribed")
"""What came back: recipients with such a report. They have a status besides."""

NAMES = STATUSES + REPORTED


_COUNTS = (
    select(
        col(Campaign.id),
        col(Campaign.total),
        *(func.coalesce(func.sum(column), 0) for column in (Batch.size, *(getattr(Batch, name) for name in NAMES))),
    )
    .outerjoin(Batch, col(Batch.campaign_id) == col(Campaign.id))
    .where(col(Campaign.id).in_(bindparam("campaign_ids", expanding=True)))
    .group_by(col(Campaign.id))
)


async def counts_of(connection: AsyncConnection, campaign_ids: Sequence[UUID]) -> dict[UUID, Counts]:
    """The counts of those of `campaign_ids` that exist."""
    found = await connection.execute(_COUNTS, {"campaign_ids": list(campaign_ids)})
    result: dict[UUID, Counts] = {}
    for campaign_id, total, covered, *sums in found:
        counts = dict(zip(NAMES, map(int, sums), strict=True))
        counts[RecipientStatus.PENDING.value] += total - int(covered)
        result[campaign_id] = {"total": total, **counts}
    return result


async def counts(connection: AsyncConnection, campaign_id: UUID) -> Counts:
    """The counts of one campaign. Raises KeyError if it does not exist."""
    return (await counts_of(connection, [campaign_id]))[campaign_id]

"""Recipients of a campaign by status: the sums over its batches, plus the recipients that no batch covers yet."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from sqlalchemy import func, select
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


async def counts_of(connection: AsyncConnection, campaign_ids: Sequence[UUID]) -> dict[UUID, Counts]:
    """The counts of those of `campaign_ids` that exist."""
    totals = await connection.execute(
        select(col(Campaign.id), col(Campaign.total)).where(col(Campaign.id).in_(campaign_ids))
    )
    sums = await connection.execute(
        select(
            col(Batch.campaign_id),
            func.sum(col(Batch.size)),
            *(func.sum(getattr(Batch, name)) for name in NAMES),
        )
        .where(col(Batch.campaign_id).in_(campaign_ids))
        .group_by(col(Batch.campaign_id))
    )
    covered = {row[0]: (int(row[1]), dict(zip(NAMES, map(int, row[2:]), strict=True))) for row in sums}
    result: dict[UUID, Counts] = {}
    for campaign_id, total in totals:
        size, by_status = covered.get(campaign_id, (0, dict.fromkeys(NAMES, 0)))
        result[campaign_id] = {
            "total": total,
            **by_status,
            RecipientStatus.PENDING.value: by_status[RecipientStatus.PENDING.value] + total - size,
        }
    return result


async def counts(connection: AsyncConnection, campaign_id: UUID) -> Counts:
    """The counts of one campaign. Raises KeyError if it does not exist."""
    return (await counts_of(connection, [campaign_id]))[campaign_id]

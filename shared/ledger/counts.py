"""Recipients of a campaign by status: the sums over its batches, plus the recipients that no batch covers yet."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from shared.ledger.models import Batch, Campaign
from shared.ledger.states import RecipientStatus

Counts = Mapping[str, int]
"""`total`, and one number for each RecipientStatus; these add up to `total`."""

STATUSES = tuple(status.value for status in RecipientStatus)


async def counts_of(connection: AsyncConnection, campaign_ids: Sequence[UUID]) -> dict[UUID, Counts]:
    """The counts of those of `campaign_ids` that exist."""
    totals = await connection.execute(
        select(col(Campaign.id), col(Campaign.total)).where(col(Campaign.id).in_(campaign_ids))
    )
    sums = await connection.execute(
        select(
            col(Batch.campaign_id),
            func.sum(col(Batch.size)),
            *(func.sum(getattr(Batch, status)) for status in STATUSES),
        )
        .where(col(Batch.campaign_id).in_(campaign_ids))
        .group_by(col(Batch.campaign_id))
    )
    covered = {row[0]: (int(row[1]), dict(zip(STATUSES, map(int, row[2:]), strict=True))) for row in sums}
    result: dict[UUID, Counts] = {}
    for campaign_id, total in totals:
        size, by_status = covered.get(campaign_id, (0, dict.fromkeys(STATUSES, 0)))
        result[campaign_id] = {
            "total": total,
            **by_status,
            RecipientStatus.PENDING.value: by_status[RecipientStatus.PENDING.value] + total - size,
        }
    return result


async def counts(connection: AsyncConnection, campaign_id: UUID) -> Counts:
    """The counts of one campaign. Raises KeyError if it does not exist."""
    return (await counts_of(connection, [campaign_id]))[campaign_id]

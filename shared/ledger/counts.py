"""Recipients of a campaign by status: the sums over its batches, plus the recipients that no batch covers yet."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Row, bindparam, func, select
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

SUMS = tuple(func.sum(getattr(Batch, name)).label(f"sum_of_{name}") for name in ("size", *NAMES))
"""Over the batches of a campaign: what `counts_in` needs besides the campaign's `total`. NULL without a batch."""

_COUNTS = (
    select(col(Campaign.id), col(Campaign.total), *SUMS)
    .outerjoin(Batch, col(Batch.campaign_id) == col(Campaign.id))
    .where(col(Campaign.id).in_(bindparam("campaign_ids", expanding=True)))
    .group_by(col(Campaign.id))
)


async def counts_of(connection: AsyncConnection, campaign_ids: Sequence[UUID]) -> dict[UUID, Counts]:
    """The counts of those of `campaign_ids` that exist."""
    found = await connection.execute(_COUNTS, {"campaign_ids": list(campaign_ids)})
    return {row.id: counts_in(row) for row in found}


async def counts(connection: AsyncConnection, campaign_id: UUID) -> Counts:
    """The counts of one campaign. Raises KeyError if it does not exist."""
    return (await counts_of(connection, [campaign_id]))[campaign_id]


def counts_in(row: Row[Any]) -> Counts:
    """The counts of a row that has a campaign's `total` and SUMS."""
    counts = {name: int(getattr(row, f"sum_of_{name}") or 0) for name in NAMES}
    counts[RecipientStatus.PENDING.value] += row.total - int(row.sum_of_size or 0)
    return {"total": row.total, **counts}

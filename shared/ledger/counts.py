"""Recipients of a campaign by status: the sums over its batches, plus the recipients that no batch covers yet.

A large campaign has many batches, most of which rest: the counts of those are in its rollup (shared.ledger.rollups), so
only the others are added up.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Label, Row, Select, Uuid, and_, func, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from shared.ledger import rows
from shared.ledger.database import Ledger
from shared.ledger.models import Batch, Campaign, Rollup
from shared.ledger.states import RecipientStatus

Counts = Mapping[str, int]
"""`total`, one number for each RecipientStatus, which add up to `total`, and one for each of REPORTED."""

STATUSES = tuple(status.value for status in RecipientStatus)

REPORTED = ("bounced", "complained", "unsubscribed")
"""What came back: recipients with such a report. They have a status besides."""

NAMES = STATUSES + REPORTED


def sum_of(name: str) -> ColumnElement[int]:
    """The sum of this column of all batches of a campaign, in a statement made with `per_campaign`."""
    return func.coalesce(func.sum(getattr(Batch, name)), 0) + func.coalesce(getattr(Rollup, name), 0)


SUMS: Sequence[Label[int]] = tuple(sum_of(name).label(f"sum_of_{name}") for name in ("size", *NAMES))
"""What `counts_in` needs besides the campaign's `total`."""


def per_campaign(*columns: Any) -> Select[Any]:
    """One row for each campaign: its columns, and sums over its batches."""
    return (
        select(*columns)
        .select_from(Campaign)
        .outerjoin(Rollup, col(Rollup.campaign_id) == col(Campaign.id))
        .outerjoin(Batch, and_(col(Batch.campaign_id) == col(Campaign.id), ~col(Batch.rolled_up)))
        .group_by(col(Campaign.id), col(Rollup.campaign_id))
    )


_COUNTS = rows.among(
    col(Campaign.id), Uuid, "campaign_ids", per_campaign(col(Campaign.id), col(Campaign.total), *SUMS).where
)


async def counts_of(connection: AsyncConnection, campaign_ids: Sequence[UUID]) -> dict[UUID, Counts]:
    """The counts of those of `campaign_ids` that exist."""
    statement = _COUNTS[connection.dialect.name]
    return {row.id: counts_in(row) for row in await connection.execute(statement, {"campaign_ids": list(campaign_ids)})}


async def counts_alone(ledger: Ledger, campaign_ids: Sequence[UUID]) -> dict[UUID, Counts]:
    """`counts_of`, for those who ask every second."""
    found = await ledger.read_alone(_COUNTS[ledger.dialect], {"campaign_ids": list(campaign_ids)})
    return {row.id: counts_in(row) for row in found}


async def counts(connection: AsyncConnection, campaign_id: UUID) -> Counts:
    """The counts of one campaign. Raises KeyError if it does not exist."""
    return (await counts_of(connection, [campaign_id]))[campaign_id]


def counts_in(row: Row[Any]) -> Counts:
    """The counts of a row that has a campaign's `total` and SUMS."""
    counts = {name: int(getattr(row, f"sum_of_{name}")) for name in NAMES}
    counts[RecipientStatus.PENDING.value] += row.total - int(row.sum_of_size)
    return {"total": row.total, **counts}

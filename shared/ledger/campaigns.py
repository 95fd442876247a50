"""The campaign row as the lock of its campaign: import, send, retry-failed, repair and close take it first."""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import ColumnElement, func, literal_column, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from shared.ledger.models import Campaign, Recipient
from shared.ledger.states import CampaignStatus

_NOT_CLOSED = (
    CampaignStatus.SCHEDULED,
    CampaignStatus.QUEUED,
    CampaignStatus.SENDING,
    CampaignStatus.PAUSED,
    CampaignStatus.STOPPING,
)


def not_closed() -> ColumnElement[bool]:
    """Scheduled or under way, in the words of the index that holds no others."""
    return col(Campaign.status).in_([literal_column(f"'{status.value}'") for status in _NOT_CLOSED])


def has_uncut() -> ColumnElement[bool]:
    """A recipient of `campaign` lies beyond its cursor: no batch covers it yet. Not an EXISTS, for which PostgreSQL may
    read the whole table in the hope of an early hit; the first by id comes from the index."""
    beyond = (
        select(col(Recipient.id))
        .where(col(Recipient.campaign_id) == col(Campaign.id), col(Recipient.id) > col(Campaign.cursor))
        .order_by(col(Recipient.id))
        .limit(1)
    )
    return beyond.correlate(Campaign).scalar_subquery().is_not(None)


@dataclass(frozen=True, slots=True)
class Locked:
    """What the row says, now that nobody else can change it before the transaction ends."""

    status: str
    cursor: int
    reopen: str | None
    stop_as: str | None
    delivery: str


async def lock(connection: AsyncConnection, campaign_id: UUID) -> Locked | None:
    """Locks a campaign until the transaction at hand ends; None where there is no such campaign."""
    row = (
        await connection.execute(
            update(Campaign)
            .where(col(Campaign.id) == campaign_id)
            .values(cursor=col(Campaign.cursor))
            .returning(
                col(Campaign.status),
                col(Campaign.cursor),
                col(Campaign.reopen),
                col(Campaign.stop_as),
                col(Campaign.delivery),
            )
        )
    ).first()
    return Locked(*row) if row is not None else None


@dataclass(frozen=True, slots=True)
class Range:
    """Some recipients of a campaign, one after the other by id."""

    first_id: int
    last_id: int
    size: int


async def next_range(
    connection: AsyncConnection, campaign_id: UUID, after: int, limit: int, *, before: int | None = None
) -> Range | None:
    """The first `limit` recipients with an id above `after` (and below `before`); None where there are none. To be
    called in a writing transaction."""
    if connection.dialect.name == "postgresql":
        # After an import of a million rows it knows nothing of them yet, expects a handful, and would sort them all.
        await connection.execute(text("SET LOCAL enable_sort = off"))
    following = (
        select(col(Recipient.id))
        .where(col(Recipient.campaign_id) == campaign_id, col(Recipient.id) > after)
        .order_by(col(Recipient.id))
        .limit(limit)
    )
    if before is not None:
        following = following.where(col(Recipient.id) < before)
    ids = following.subquery()
    first_id, last_id, size = (
        await connection.execute(select(func.min(ids.c.id), func.max(ids.c.id), func.count()).select_from(ids))
    ).one()
    return Range(first_id, last_id, size) if size else None


async def move_cursor(connection: AsyncConnection, campaign_id: UUID, cursor: int) -> None:
    """Under the lock, together with the batch that covers the recipients up to `cursor`."""
    await connection.execute(update(Campaign).where(col(Campaign.id) == campaign_id).values(cursor=cursor))

"""The campaign row as the lock of its campaign: import, send, retry-failed, repair and close take it first."""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import ColumnElement, literal_column, select, update
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


async def move_cursor(connection: AsyncConnection, campaign_id: UUID, cursor: int) -> None:
    """Under the lock, together with the batch that covers the recipients up to `cursor`."""
    await connection.execute(update(Campaign).where(col(Campaign.id) == campaign_id).values(cursor=cursor))

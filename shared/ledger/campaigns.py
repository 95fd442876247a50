"""The campaign row as the lock of its campaign: import, send, retry-failed, repair and close take it first."""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from shared.ledger.models import Campaign


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

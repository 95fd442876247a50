"""How far the events of each project have been published to the broker, and which process does it."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import ColumnElement, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from shared.ledger.database import db_now
from shared.ledger.outbox_tables import EventStream

LONGEST_LEASE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Claimed:
    """A project whose events this process publishes."""

    project_id: UUID
    #: Events up to this position were published.
    published: int
    #: Events up to this position are deleted.
    forgotten: int


async def due(connection: AsyncConnection, owner: str) -> Sequence[UUID]:
    """Projects with events to publish that no other process publishes."""
    found = await connection.execute(
        select(col(EventStream.project_id))
        .where(col(EventStream.published_position) < col(EventStream.last_position), _free_for(owner))
        .order_by(col(EventStream.project_id))
    )
    return list(found.scalars())


async def claim(connection: AsyncConnection, project_id: UUID, owner: str, lease_seconds: float) -> Claimed | None:
    """Claims the events of a project, or renews the claim. None: another process has them."""
    claimed = await connection.execute(
        update(EventStream)
        .where(col(EventStream.project_id) == project_id, _free_for(owner))
        .values(publisher=owner, publisher_until=db_now() + lease_seconds)
        .returning(col(EventStream.published_position), col(EventStream.forgotten_position))
    )
    row = claimed.first()
    return None if row is None else Claimed(project_id, row.published_position, row.forgotten_position)


async def renew(connection: AsyncConnection, owner: str, lease_seconds: float) -> None:
    """Renews every claim of this owner."""
    await connection.execute(
        update(EventStream).where(col(EventStream.publisher) == owner).values(publisher_until=db_now() + lease_seconds)
    )


async def settle(connection: AsyncConnection, claimed: Claimed, owner: str, until: int) -> bool:
    """Notes that events up to `until` are published. False: the claim is lost."""
    changed = await connection.execute(
        update(EventStream)
        .where(
            col(EventStream.project_id) == claimed.project_id,
            col(EventStream.publisher) == owner,
            col(EventStream.published_position) == claimed.published,
        )
        .values(published_position=until)
    )
    return changed.rowcount == 1


async def release(connection: AsyncConnection, owner: str) -> None:
    """Ends every claim of this owner."""
    await connection.execute(
        update(EventStream).where(col(EventStream.publisher) == owner).values(publisher=None, publisher_until=None)
    )


def _free_for(owner: str) -> ColumnElement[bool]:
    until, now = col(EventStream.publisher_until), db_now()
    # A lease that ends later than any can was given before the clock was set back.
    return or_(col(EventStream.publisher) == owner, until.is_(None), until < now, until > now + LONGEST_LEASE_SECONDS)

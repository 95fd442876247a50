"""A campaign's limit in emails per second, as the row the dispatcher reserves from."""

from uuid import UUID

from sqlalchemy import delete
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from shared.ledger.models import RateLimit


async def set_limit(connection: AsyncConnection, campaign_id: UUID, emails_per_second: float | None) -> None:
    """Makes, changes or (None) removes the limit. What is reserved already stays reserved: at most a batch or two, and
    the limit is never exceeded on the way from one rate to another."""
    scope = f"campaign:{campaign_id}"
    if emails_per_second is None:
        await connection.execute(delete(RateLimit).where(col(RateLimit.scope) == scope))
        return
    insert = postgresql_insert if connection.dialect.name == "postgresql" else sqlite_insert
    await connection.execute(
        insert(RateLimit)
        .values(scope=scope, emails_per_second=emails_per_second, free_at=0.0)
        .on_conflict_do_update(index_elements=["scope"], set_={"emails_per_second": emails_per_second})
    )

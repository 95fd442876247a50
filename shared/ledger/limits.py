"""Rates: one row per limit, with the time at which it is next free. Shares sum to the limit, whoever sends."""

from sqlalchemy import case, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from shared.ledger.database import db_now
from shared.ledger.models import RateLimit


async def reserve(connection: AsyncConnection, scope: str, emails: int) -> tuple[float, float] | None:
    """Reserves room for `emails`; returns (starts_at, seconds they take), or None where `scope` has no limit.

    One update, so two who reserve at once get spans that do not overlap."""
    seconds = emails / col(RateLimit.emails_per_second)
    free = case((col(RateLimit.free_at) > db_now(), col(RateLimit.free_at)), else_=db_now())
    row = (
        await connection.execute(
            update(RateLimit)
            .where(col(RateLimit.scope) == scope)
            .values(free_at=free + seconds)
            .returning(col(RateLimit.free_at), col(RateLimit.emails_per_second))
        )
    ).first()
    if row is None:
        return None
    span = emails / row.emails_per_second
    return row.free_at - span, span


async def free_at(connection: AsyncConnection, scope: str) -> float | None:
    """When `scope` is next free, in the ledger's seconds; None where it has no limit."""
    found = await connection.execute(select(col(RateLimit.free_at)).where(col(RateLimit.scope) == scope))
    return found.scalar_one_or_none()

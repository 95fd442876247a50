"""Reserving room under every limit a campaign is under, all at once or not at all."""

from collections.abc import Sequence

from sqlalchemy import case, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from shared.ledger import rows
from shared.ledger.database import clock, db_now
from shared.ledger.models import RateLimit


class NotFreeError(Exception):
    """A limit has no room so soon. The transaction at hand is to be rolled back."""


async def reserve(
    connection: AsyncConnection, scopes: Sequence[str], emails: int, *, after_seconds: float, ahead_seconds: float
) -> tuple[float, float | None]:
    """Reserves room for `emails` under those of `scopes` that exist, locked in the order given; not before
    `after_seconds` from now. Returns when the first may leave, and the rate they are all held to: the lowest, or None
    without a limit. Raises NotFreeError when that would be later than `ahead_seconds` from now."""
    now = await clock(connection)
    starts_at = now + max(after_seconds, 0.0)
    rates: dict[str, float] = {}
    for scope in scopes:
        free_at = case((col(RateLimit.free_at) > db_now(), col(RateLimit.free_at)), else_=db_now())
        row = (
            await connection.execute(
                update(RateLimit)
                .where(col(RateLimit.scope) == scope)
                .values(free_at=free_at)
                .returning(col(RateLimit.free_at), col(RateLimit.emails_per_second))
            )
        ).first()
        if row is not None:
            starts_at = max(starts_at, row.free_at)
            rates[scope] = row.emails_per_second
    if starts_at > now + ahead_seconds:
        raise NotFreeError
    # All from the same moment on, so that what is sent under one limit is never ahead of another.
    for scope, rate in rates.items():
        await connection.execute(
            update(RateLimit).where(col(RateLimit.scope) == scope).values(free_at=starts_at + emails / rate)
        )
    return starts_at, min(rates.values(), default=None)


async def ensure(connection: AsyncConnection, scope: str, emails_per_second: float) -> None:
    """Makes the row of a limit that is missing."""
    new = {"scope": scope, "emails_per_second": emails_per_second, "free_at": db_now()}
    await connection.execute(rows.insert_missing(connection, RateLimit).values(**new))

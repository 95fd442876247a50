"""Rate limits: one row per scope, with the moment from which the next email may leave under it.

A reservation moves that moment forward, so the shares of all senders add up to the limit.
"""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import case, delete, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from shared.ledger import rows
from shared.ledger.database import clock, db_now
from shared.ledger.models import RateLimit


class NotFreeError(Exception):
    """A limit has no room soon enough. Roll back the transaction."""


def campaign_scope(campaign_id: UUID) -> str:
    return f"campaign:{campaign_id}"


def project_scope(project_id: UUID) -> str:
    return f"project:{project_id}"


async def put(connection: AsyncConnection, scope: str, emails_per_second: float | None) -> None:
    """Creates or changes a limit, or removes it (None). Existing reservations stand: a batch or two at most."""
    if emails_per_second is None:
        await connection.execute(delete(RateLimit).where(col(RateLimit.scope) == scope))
        return
    values = {"scope": scope, "emails_per_second": emails_per_second, "free_at": 0.0}
    await rows.upsert(connection, RateLimit, values, key=("scope",), changes=("emails_per_second",))


async def add_missing(connection: AsyncConnection, scope: str, emails_per_second: float) -> None:
    """Creates a limit unless the scope has one."""
    new = {"scope": scope, "emails_per_second": emails_per_second, "free_at": db_now()}
    await connection.execute(rows.insert_missing(connection, RateLimit).values(**new))


async def reserve(
    connection: AsyncConnection, scopes: Sequence[str], emails: int, *, after_seconds: float, ahead_seconds: float
) -> tuple[float, float | None]:
    """Reserves room for `emails` under all `scopes` that have a limit, not before `after_seconds` from now.

    Returns the moment when the first may leave, and the lowest of the rates (None if there is no limit). Locks the
    limits in the order given. Raises NotFreeError if that moment is more than `ahead_seconds` from now."""
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
    # All from the same moment, so that no limit is ahead of another.
    for scope, rate in rates.items():
        await connection.execute(
            update(RateLimit).where(col(RateLimit.scope) == scope).values(free_at=starts_at + emails / rate)
        )
    return starts_at, min(rates.values(), default=None)

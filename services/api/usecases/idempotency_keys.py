"""The table of idempotency keys: each request under a key is done once, and its answer is kept with its effect."""

from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from shared.ledger import rows
from shared.ledger.database import clock, db_now
from shared.ledger.models import IdempotencyKey


@dataclass(frozen=True, slots=True)
class Claim:
    """A key that one request holds until it is answered."""

    project_id: UUID
    key: str
    held_since: float
    """By the database's clock. It fences: a request that takes the key over changes it, and the old claim is void."""


@dataclass(frozen=True, slots=True)
class Kept:
    """The answer that was given under a key."""

    request_digest: str
    status_code: int
    response: str  # as it was given to `keep`


class KeyHeldError(Exception):
    """Another request holds the key."""


async def take(
    connection: AsyncConnection, project_id: UUID, key: str, digest: str, takeover_seconds: float
) -> Claim | Kept:
    """Claims a key, or returns the answer kept under it. A claim that was neither answered nor renewed for
    `takeover_seconds` is taken over. Raises KeyHeldError."""
    claim = Claim(project_id, key, await clock(connection))
    while not await _insert(connection, claim, digest):
        query = select(
            col(IdempotencyKey.request_digest), col(IdempotencyKey.status_code), col(IdempotencyKey.response)
        )
        found = (await connection.execute(query.where(*_row_of(claim)))).first()
        if found is None:
            continue  # it was released between the two statements
        if found.status_code is not None:
            return Kept(found.request_digest, found.status_code, found.response or "{}")
        taken = await connection.execute(
            update(IdempotencyKey)
            .where(
                *_row_of(claim),
                col(IdempotencyKey.status_code).is_(None),
                col(IdempotencyKey.created_at) < claim.held_since - takeover_seconds,
            )
            .values(request_digest=digest, created_at=claim.held_since)
        )
        if taken.rowcount == 0:
            raise KeyHeldError
        break
    return claim


async def use_once(connection: AsyncConnection, project_id: UUID, key: str) -> bool:
    """Marks a key as used. False: it was used before."""
    return await _insert(connection, Claim(project_id, key, await clock(connection)), "", status_code=204)


async def renew(connection: AsyncConnection, claim: Claim) -> Claim:
    """The claim, held from now. Raises KeyHeldError if another request took it over."""
    renewed = replace(claim, held_since=await clock(connection))
    await _change(connection, claim, created_at=renewed.held_since)
    return renewed


async def keep(connection: AsyncConnection, claim: Claim, kept: Kept) -> None:
    """Keeps an answer, in the transaction of its effect. Raises KeyHeldError if another request took the key over."""
    await _change(
        connection,
        claim,
        request_digest=kept.request_digest,
        status_code=kept.status_code,
        response=kept.response,
    )


async def release(connection: AsyncConnection, claim: Claim) -> None:
    """Forgets a key under which nothing was done."""
    await connection.execute(delete(IdempotencyKey).where(*_held_by(claim)))


async def forget_expired(connection: AsyncConnection, older_than_seconds: float) -> int:
    """Deletes keys older than this; returns how many."""
    gone = await connection.execute(
        delete(IdempotencyKey).where(col(IdempotencyKey.created_at) < db_now() - older_than_seconds)
    )
    return gone.rowcount


async def _insert(connection: AsyncConnection, claim: Claim, digest: str, **columns: Any) -> bool:
    inserted = await connection.execute(
        rows.insert_missing(connection, IdempotencyKey).values(
            project_id=claim.project_id,
            key=claim.key,
            request_digest=digest,
            created_at=claim.held_since,
            **columns,
        )
    )
    return inserted.rowcount > 0


async def _change(connection: AsyncConnection, claim: Claim, **columns: Any) -> None:
    changed = await connection.execute(update(IdempotencyKey).where(*_held_by(claim)).values(**columns))
    if changed.rowcount == 0:
        raise KeyHeldError


def _row_of(claim: Claim) -> tuple[ColumnElement[bool], ...]:
    return col(IdempotencyKey.project_id) == claim.project_id, col(IdempotencyKey.key) == claim.key


def _held_by(claim: Claim) -> tuple[ColumnElement[bool], ...]:
    return (
        *_row_of(claim),
        col(IdempotencyKey.status_code).is_(None),
        col(IdempotencyKey.created_at) == claim.held_since,
    )

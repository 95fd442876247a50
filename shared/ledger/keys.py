"""API keys: `vs_` and 256 random bits. Only a SHA-256 digest is stored; a secret this random needs no slow hash."""

import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col
from uuid6 import uuid7

from shared.ledger.database import db_now
from shared.ledger.models import DEFAULT_PROJECT, ApiKey

_SECRET = re.compile(r"vs_[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class Key:
    """One key, without its secret. Moments are seconds since 1970."""

    id: UUID
    project_id: UUID
    name: str
    created_at: float
    revoked_at: float | None


_KEYS = select(col(ApiKey.id), col(ApiKey.project_id), col(ApiKey.name), col(ApiKey.created_at), col(ApiKey.revoked_at))


async def create_key(connection: AsyncConnection, name: str, project_id: UUID = DEFAULT_PROJECT) -> str:
    """Creates a key and returns its secret, which cannot be read again."""
    secret = f"vs_{secrets.token_urlsafe(32)}"
    await connection.execute(
        insert(ApiKey).values(
            id=UUID(int=uuid7().int), project_id=project_id, name=name, digest=_digest(secret), created_at=db_now()
        )
    )
    return secret


async def list_keys(connection: AsyncConnection) -> Sequence[Key]:
    """All keys, oldest first, revoked ones included."""
    return [Key(*row) for row in await connection.execute(_KEYS.order_by(col(ApiKey.id)))]


async def find(connection: AsyncConnection, *, secret: str | None = None, key_id: UUID | None = None) -> Key | None:
    """The key with this secret, or with this id; None if there is none or it is revoked."""
    if secret is not None and not _SECRET.fullmatch(secret):
        return None
    wanted = col(ApiKey.id) == key_id if secret is None else col(ApiKey.digest) == _digest(secret)
    row = (await connection.execute(_KEYS.where(wanted, col(ApiKey.revoked_at).is_(None)))).first()
    return None if row is None else Key(*row)


async def revoke_key(connection: AsyncConnection, key_id: UUID) -> bool:
    """Revokes a key. False if there is no such key or it was revoked before."""
    revoked = await connection.execute(
        update(ApiKey).where(col(ApiKey.id) == key_id, col(ApiKey.revoked_at).is_(None)).values(revoked_at=db_now())
    )
    return revoked.rowcount > 0


async def project_of(connection: AsyncConnection, secret: str) -> UUID | None:
    """The project of the key with this secret; None if there is none or it is revoked."""
    key = await find(connection, secret=secret)
    return None if key is None else key.project_id


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()

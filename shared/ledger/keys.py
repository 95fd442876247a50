"""API keys: `vs_` and 256 random bits. Only a SHA-256 digest is stored; a secret this random needs no slow hash."""

import hashlib
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from uuid import UUID

from sqlalchemy import Row, bindparam, case, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col
from uuid6 import uuid7

from shared.ledger.database import Ledger, clock, db_now
from shared.ledger.models import DEFAULT_PROJECT, ApiKey, Project
from shared.scopes import EVERY_SCOPE, Scope

USED_SECONDS = 900.0
"""How coarse `last_used_at` is: a key that is used all the time is written this seldom."""

_SECRET = re.compile(r"vs_[A-Za-z0-9_-]{43}")
_LIMITED = b"limited\0"


@dataclass(frozen=True, slots=True)
class Key:
    """One key, without its secret. Moments are seconds since 1970."""

    id: UUID
    project_id: UUID
    #: The project's name.
    project: str
    name: str
    created_at: float
    revoked_at: float | None
    expires_at: float | None
    #: Seconds for which it was made; it may end earlier, because it was rotated. None: for ever.
    lives_seconds: float | None
    #: To the quarter of an hour.
    last_used_at: float | None
    scopes: frozenset[Scope]
    #: The only domains it may send from; None: every domain of its project.
    sender_domains: tuple[str, ...] | None
    #: It is time to note that it is used: see `note_use`.
    is_use_due: bool

    def may_send_from(self, domain: str) -> bool:
        """Whether the key itself allows this domain; it must also be the project's. A domain includes those below."""
        if self.sender_domains is None:
            return True
        return any(domain == one or domain.endswith(f".{one}") for one in self.sender_domains)


@dataclass(frozen=True, slots=True)
class NewKey:
    """What a new key may do."""

    name: str
    project_id: UUID = DEFAULT_PROJECT
    #: None: every one; in another project than `default` all but `operator`.
    scopes: frozenset[Scope] | None = None
    #: Seconds until it expires. None: never.
    lives_seconds: float | None = None
    sender_domains: tuple[str, ...] | None = None


_COLUMNS: Sequence[Any] = (
    col(ApiKey.id),
    col(ApiKey.project_id),
    col(Project.name).label("project"),
    col(ApiKey.name),
    col(ApiKey.created_at),
    col(ApiKey.revoked_at),
    col(ApiKey.expires_at),
    col(ApiKey.lives_seconds),
    col(ApiKey.last_used_at),
    col(ApiKey.scopes),
    col(ApiKey.sender_domains),
    or_(col(ApiKey.last_used_at).is_(None), col(ApiKey.last_used_at) < db_now() - USED_SECONDS).label("is_use_due"),
)
_KEYS = select(*_COLUMNS).join(Project.__table__, col(Project.id) == col(ApiKey.project_id))  # type: ignore[attr-defined]


_VALID = _KEYS.where(
    col(ApiKey.revoked_at).is_(None),
    or_(col(ApiKey.expires_at).is_(None), col(ApiKey.expires_at) > db_now()),
    col(Project.closed_at).is_(None),
)
_BY_ID = _VALID.where(col(ApiKey.id) == bindparam("key_id"))
_BY_SECRET = _VALID.where(col(ApiKey.digest).in_([bindparam("plain"), bindparam("limited")]))


async def create_key(connection: AsyncConnection, name: str, project_id: UUID = DEFAULT_PROJECT) -> str:
    """Creates a key without expiry and returns its secret, which cannot be read again."""
    return (await create(connection, NewKey(name, project_id)))[1]


async def create(connection: AsyncConnection, wanted: NewKey) -> tuple[UUID, str]:
    """Creates a key; returns its id, and its secret, which cannot be read again."""
    scopes = wanted.scopes
    if scopes is None:
        scopes = EVERY_SCOPE if wanted.project_id == DEFAULT_PROJECT else EVERY_SCOPE - {Scope.OPERATOR}
    secret = f"vs_{secrets.token_urlsafe(32)}"
    now = await clock(connection)
    is_limited = scopes != EVERY_SCOPE or wanted.lives_seconds is not None or wanted.sender_domains is not None
    key_id = UUID(int=uuid7().int)
    await connection.execute(
        ApiKey.__table__.insert().values(  # type: ignore[attr-defined]
            id=key_id,
            project_id=wanted.project_id,
            name=wanted.name,
            digest=_limited_digest(secret) if is_limited else _digest(secret),
            created_at=now,
            expires_at=None if wanted.lives_seconds is None else now + wanted.lives_seconds,
            lives_seconds=wanted.lives_seconds,
            scopes=" ".join(sorted(scopes)),
            sender_domains=None if wanted.sender_domains is None else " ".join(wanted.sender_domains),
        )
    )
    return key_id, secret


async def rotate(connection: AsyncConnection, key: Key, overlap_seconds: float) -> tuple[UUID, str] | None:
    """Creates a key that may do the same, for as long; the old one expires after `overlap_seconds` at the latest. None
    if it is not valid any more. Of two rotations at once each creates a key."""
    ends_at = await clock(connection) + overlap_seconds
    expires_at, id_ = col(ApiKey.expires_at), col(ApiKey.id)
    never = expires_at.is_(None)
    # Before the new key is made, so that a key that is revoked at this moment is not replaced.
    ended = await connection.execute(
        update(ApiKey)
        .where(id_ == key.id, col(ApiKey.revoked_at).is_(None), or_(never, expires_at > db_now()))
        .values(expires_at=case((or_(never, expires_at > ends_at), ends_at), else_=expires_at))
    )
    if ended.rowcount == 0:
        return None
    return await create(connection, NewKey(key.name, key.project_id, key.scopes, key.lives_seconds, key.sender_domains))


async def list_keys(connection: AsyncConnection) -> Sequence[Key]:
    """All keys, oldest first, revoked ones included."""
    return [_key(row) for row in await connection.execute(_KEYS.order_by(col(ApiKey.id)))]


async def find(connection: AsyncConnection, *, secret: str | None = None, key_id: UUID | None = None) -> Key | None:
    """The key with this secret, or with this id; None if there is none, or it is revoked, expired, or of a project that
    is closed."""
    if secret is not None and not _SECRET.fullmatch(secret):
        return None
    if secret is None:
        found = await connection.execute(_BY_ID, {"key_id": key_id})
    else:
        found = await connection.execute(_BY_SECRET, _digests(secret))
    row = found.first()
    return None if row is None else _key(row)


async def find_alone(ledger: Ledger, secret: str) -> Key | None:
    """`find` of a secret, for every request to the API."""
    if not _SECRET.fullmatch(secret):
        return None
    rows = await ledger.read_alone(_BY_SECRET, _digests(secret))
    return _key(rows[0]) if rows else None


async def revoke_key(connection: AsyncConnection, key_id: UUID) -> bool:
    """Revokes a key. False if there is no such key or it was revoked before."""
    revoked = await connection.execute(
        update(ApiKey).where(col(ApiKey.id) == key_id, col(ApiKey.revoked_at).is_(None)).values(revoked_at=db_now())
    )
    return revoked.rowcount > 0


async def note_use(connection: AsyncConnection, key_id: UUID) -> None:
    """Notes that a key is used now."""
    await connection.execute(update(ApiKey).where(col(ApiKey.id) == key_id).values(last_used_at=db_now()))


async def project_of(connection: AsyncConnection, secret: str) -> UUID | None:
    """The project of the key with this secret; None if `find` has none."""
    key = await find(connection, secret=secret)
    return None if key is None else key.project_id


def _key(row: Row[Any]) -> Key:
    domains = None if row.sender_domains is None else tuple(row.sender_domains.split())
    given = {"scopes": _scopes(row.scopes), "sender_domains": domains, "is_use_due": bool(row.is_use_due)}
    return Key(**(row._asdict() | given))


@lru_cache  # every request needs them, and few keys differ in them
def _scopes(stored: str | None) -> frozenset[Scope]:
    return EVERY_SCOPE if stored is None else frozenset(Scope(one) for one in stored.split())


def _digests(secret: str) -> Mapping[str, str]:
    return {"plain": _digest(secret), "limited": _limited_digest(secret)}


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _limited_digest(secret: str) -> str:
    """Of a key that may not do everything for ever: release 0.1.0 knows no such limits, and so must not know the key
    while both run side by side."""
    return hashlib.sha256(_LIMITED + secret.encode()).hexdigest()

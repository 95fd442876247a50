"""Keyed hashes of addresses: they keep people suppressed whose address is erased.

The hash is an HMAC-SHA256 (RFC 2104) over project and address, so that neither a copy of the database nor two projects
together show who was erased. Its secret is made once for an installation, and never changes: what was hashed cannot be
hashed again. It lies in the ledger, sealed (Fernet) for each key that is derived from the installation's unsubscribe
keys: only a process that has one of these can open it. When the installation's secret is rotated, the API seals it for
the new key, and removes what is sealed for a key that no process has had for a month.
"""

import hmac
from collections.abc import Collection, Mapping, Sequence
from hashlib import sha256
from secrets import token_bytes
from uuid import UUID

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    delete,
    literal_column,
    or_,
    select,
    text,
)
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from shared.errors import VashSenderError
from shared.ledger import rows
from shared.ledger.database import db_now
from shared.ledger.erasure_tables import HashSecret
from shared.ledger.forgetting_tables import ForgottenPeople
from shared.ledger.models import Project, Suppression

PREFIX = "hashed:"
"""No address has a colon before its @."""

UNUSED_SECONDS = 30 * 86_400.0
KEYS_AT_ONCE = 1000

_PURPOSE = b"vashsender address 1\0"
_SECRET_OCTETS = 32
_MAKING = 0x7661736868617368  # of an advisory lock


class SealedSecretError(VashSenderError):
    """The secret of the hashes cannot be opened, so who was erased is not known."""

    def __init__(self) -> None:
        super().__init__(
            "There are erased people, but the secret of their hashes is sealed for another VASHSENDER_SECRET_KEY: add"
            " the former secret to it, behind a comma."
        )


def key_of(secret: bytes, project_id: UUID, email_key: str) -> str:
    """What stands for an address (`email_key`: see shared.addresses) in a suppression of this project."""
    return PREFIX + hmac.digest(secret, _PURPOSE + project_id.bytes + email_key.encode(), "sha256").hex()


async def secret(connection: AsyncConnection, roots: Sequence[bytes], *, make: bool = False) -> bytes | None:
    """The secret of the hashes; None if there is none yet and none is to be made. `roots`: see
    CommonSettings.hash_roots. Raises SealedSecretError."""
    if make and connection.dialect.name == "postgresql":
        await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MAKING})
    sealed = await _sealed(connection)
    try:
        if sealed or not make:
            return _opened(sealed, roots) if sealed else None
    except SealedSecretError:
        if not make or await _is_needed(connection):
            raise
        await connection.execute(delete(HashSecret))
    made = token_bytes(_SECRET_OCTETS)
    await _seal(connection, made, roots)
    return made


async def maintain(connection: AsyncConnection, roots: Sequence[bytes]) -> None:
    """Seals the secret for every key, newer ones included, and forgets keys that are no longer used. Raises
    SealedSecretError."""
    sealed = await _sealed(connection)
    if not sealed:
        return
    await _seal(connection, _opened(sealed, roots), roots)
    await connection.execute(delete(HashSecret).where(col(HashSecret.seen_at) < db_now() - UNUSED_SECONDS))


async def hold(connection: AsyncConnection, project_id: UUID) -> None:
    """Until the transaction ends, no erasure begins in this project: what it inserts was checked."""
    if connection.dialect.name == "postgresql":
        await connection.execute(
            select(col(Project.id)).where(col(Project.id) == project_id).with_for_update(read=True)
        )


async def suppressed_among(
    connection: AsyncConnection, roots: Sequence[bytes], project_id: UUID, email_keys: Collection[str]
) -> Collection[str]:
    """Those of the keys that are suppressed by their hash. Raises SealedSecretError."""
    if not email_keys or not await _has_any(connection, project_id):
        return ()
    opened = await secret(connection, roots)
    if opened is None:
        raise SealedSecretError
    by_hash = {key_of(opened, project_id, key): key for key in email_keys}
    hashes, found = list(by_hash), set[str]()
    for start in range(0, len(hashes), KEYS_AT_ONCE):
        known = await connection.scalars(
            select(col(Suppression.email_key)).where(
                col(Suppression.project_id) == project_id,
                rows.is_one_of(connection, col(Suppression.email_key), hashes[start : start + KEYS_AT_ONCE]),
            )
        )
        found.update(by_hash[key] for key in known)
    return found


def has_any(project_id: UUID | BindParameter[UUID]) -> ColumnElement[bool]:
    """Whether a project has suppressions without address. Answered by a partial index."""
    is_hashed = col(Suppression.email) == literal_column("''")
    return select(col(Suppression.id)).where(col(Suppression.project_id) == project_id, is_hashed).exists()


async def _is_needed(connection: AsyncConnection) -> bool:
    """Whether there is a hash in any project."""
    is_hashed = select(col(Suppression.id)).where(col(Suppression.email) == literal_column("''")).exists()
    is_forgotten = select(col(ForgottenPeople.first_id)).exists()
    return bool(await connection.scalar(select(or_(is_hashed, is_forgotten))))


async def _has_any(connection: AsyncConnection, project_id: UUID) -> bool:
    return bool(await connection.scalar(select(has_any(project_id))))


async def _sealed(connection: AsyncConnection) -> Mapping[str, str]:
    found = await connection.execute(select(col(HashSecret.sealed_for), col(HashSecret.sealed)))
    return {row.sealed_for: row.sealed for row in found}


def _opened(sealed: Mapping[str, str], roots: Sequence[bytes]) -> bytes:
    from cryptography.fernet import Fernet, InvalidToken  # slow to import, and rarely needed

    for root in roots:
        if (found := sealed.get(_name_of(root))) is not None:
            try:
                return Fernet(root + b"=").decrypt(found)
            except InvalidToken:
                continue
    raise SealedSecretError


async def _seal(connection: AsyncConnection, opened: bytes, roots: Sequence[bytes]) -> None:
    from cryptography.fernet import Fernet

    for root in sorted(roots):
        await rows.upsert(
            connection,
            HashSecret,
            {
                "sealed_for": _name_of(root),
                "sealed": Fernet(root + b"=").encrypt(opened).decode(),
                "seen_at": db_now(),
            },
            key=("sealed_for",),
            changes=("seen_at",),
        )


def _name_of(root: bytes) -> str:
    return sha256(b"vashsender hash secret 1\0" + root).hexdigest()[:32]

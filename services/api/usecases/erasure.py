"""Erasing a person from a project: asked for, and how far it is. The work is in `erasing.py`.

The person is suppressed first, in two ways: by address, which every sender heeds within a second, until no row of the
person is left; and by a keyed hash of it, for good.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import ColumnElement, delete, insert, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from services.api.shapes.erasures import ErasureOut
from services.api.usecases.errors import ErasureRunningError, HashesSealedError, NotFoundError, invalid
from shared.addresses import Address, AddressError, parse_address
from shared.ledger import hashed, projects, rows
from shared.ledger.database import Ledger, db_now
from shared.ledger.erasure_tables import Erasure
from shared.ledger.hashed import SealedSecretError
from shared.ledger.models import Project, Suppression

AGAIN_SECONDS = 3600.0
"""A request to erase a person who was erased less than this ago changes nothing, so that a client may ask again until
it is done."""

FIRST_PHASE = "campaigns"


@dataclass(frozen=True, slots=True)
class Whom:
    """A person, and the keys that open the secret of the hashes."""

    address: Address
    roots: Sequence[bytes]


def whom(email: str, roots: Sequence[bytes]) -> Whom:
    """Raises InvalidError."""
    try:
        return Whom(parse_address(email), roots)
    except AddressError as error:
        raise invalid("#/email", error.reason) from None


async def erase(ledger: Ledger, project_id: UUID, person: Whom) -> ErasureOut:
    """Begins to erase a person from a project, or says how far that is. Raises HashesSealedError."""
    return await _erase(ledger, [project_id], person)


async def erase_everywhere(ledger: Ledger, person: Whom) -> ErasureOut:
    """The same in every project that there is now."""
    async with ledger.read() as connection:
        found = await connection.scalars(select(col(Project.id)).order_by(col(Project.id)))
        project_ids = found.all()
    return await _erase(ledger, project_ids, person)


async def _erase(ledger: Ledger, project_ids: Sequence[UUID], person: Whom) -> ErasureOut:
    try:
        for project_id in project_ids:
            async with ledger.read() as connection:
                secret = await hashed.secret(connection, person.roots)
                known = secret and await _recent(connection, project_id, secret, person.address)
            if not known:
                async with ledger.write() as connection:
                    await _begin(connection, project_id, person)
        async with ledger.read() as connection:
            return await _progress(connection, project_ids, person)
    except SealedSecretError as error:
        raise HashesSealedError(str(error)) from None


async def _recent(connection: AsyncConnection, project_id: UUID, secret: bytes, address: Address) -> bool:
    """Whether an erasure is under way, or has just ended."""
    found = await connection.scalar(
        select(col(Erasure.id)).where(
            *_of(project_id, hashed.key_of(secret, project_id, address.key)),
            or_(col(Erasure.finished_at).is_(None), col(Erasure.finished_at) > db_now() - AGAIN_SECONDS),
        )
    )
    return found is not None


async def _begin(connection: AsyncConnection, project_id: UUID, person: Whom) -> None:
    """Imports and requests that add a suppression hold the project (`hashed.hold`), so each either ends before this, or
    sees it."""
    address = person.address
    await projects.lock(connection, project_id)
    secret = await hashed.secret(connection, person.roots, make=True)
    assert secret is not None
    hashed_key = hashed.key_of(secret, project_id, address.key)
    if await _recent(connection, project_id, secret, address):
        return
    await connection.execute(
        delete(Suppression).where(
            col(Suppression.project_id) == project_id, col(Suppression.email_key).in_([address.key, hashed_key])
        )
    )
    await connection.execute(
        insert(Suppression).values(project_id=project_id, email="", reason="erased", created_at=db_now()),
        [{"email_key": address.key}, {"email_key": hashed_key}],
    )
    await rows.upsert(
        connection,
        Erasure,
        {
            "project_id": project_id,
            "hashed_key": hashed_key,
            "email": address.email,
            "email_key": address.key,
            "phase": FIRST_PHASE,
            "cursor": None,
            "recipients": 0,
            "asked_at": db_now(),
            "finished_at": None,
        },
        key=("project_id", "hashed_key"),
    )


async def _progress(connection: AsyncConnection, project_ids: Sequence[UUID], person: Whom) -> ErasureOut:
    secret = await hashed.secret(connection, person.roots)
    assert secret is not None
    recipients, done = 0, 0
    for project_id in project_ids:
        found = await connection.execute(
            select(col(Erasure.recipients), col(Erasure.finished_at)).where(
                *_of(project_id, hashed.key_of(secret, project_id, person.address.key))
            )
        )
        row = found.first()
        if row is None or row.finished_at is not None:
            done += 1  # without a row: its project was deleted, or an operator has lifted it meanwhile
        recipients += row.recipients if row is not None else 0
    state = "done" if done == len(project_ids) else "running"
    return ErasureOut(state=state, recipients=recipients, projects=len(project_ids), projects_done=done)


async def erased_among(
    connection: AsyncConnection, project_id: UUID, roots: Sequence[bytes], email_keys: Collection[str]
) -> Collection[str]:
    """Those of the addresses (by key) whose people were erased. No erasure begins before the transaction ends. Raises
    HashesSealedError."""
    try:
        await hashed.hold(connection, project_id)
        return await hashed.suppressed_among(connection, roots, project_id, email_keys)
    except SealedSecretError as error:
        raise HashesSealedError(str(error)) from None


async def lift(connection: AsyncConnection, project_id: UUID, roots: Sequence[bytes], address: Address) -> None:
    """Lets the project write to an erased person again. Raises NotFoundError, ErasureRunningError and
    HashesSealedError."""
    hashed_key = await key_of(connection, project_id, roots, address)
    if hashed_key is None:
        raise NotFoundError("suppression of this address")
    running = await connection.scalar(
        select(col(Erasure.id)).where(*_of(project_id, hashed_key), col(Erasure.finished_at).is_(None))
    )
    if running is not None:
        raise ErasureRunningError("The person is being erased. Repeat this when that is done.")
    await connection.execute(delete(Erasure).where(*_of(project_id, hashed_key)))
    await connection.execute(
        delete(Suppression).where(col(Suppression.project_id) == project_id, col(Suppression.email_key) == hashed_key)
    )


async def key_of(connection: AsyncConnection, project_id: UUID, roots: Sequence[bytes], address: Address) -> str | None:
    """The hash by which an address is suppressed in a project; None if it is not. Raises HashesSealedError."""
    try:
        secret = await hashed.secret(connection, roots)
    except SealedSecretError as error:
        raise HashesSealedError(str(error)) from None
    if secret is None or not await hashed.suppressed_among(connection, roots, project_id, [address.key]):
        return None
    return hashed.key_of(secret, project_id, address.key)


def _of(project_id: UUID, hashed_key: str) -> tuple[ColumnElement[bool], ...]:
    return col(Erasure.project_id) == project_id, col(Erasure.hashed_key) == hashed_key

"""Suppressions: addresses to which a project does not write."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import delete, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from services.api.shapes.common import Page
from services.api.shapes.suppressions import (
    RemovedSuppressions,
    Suppressed,
    SuppressionIn,
    SuppressionOut,
    SuppressionsIn,
)
from services.api.usecases import erasure
from services.api.usecases.acts import about
from services.api.usecases.errors import ErasedPersonError, InvalidError, NotFoundError
from services.api.usecases.paging import cut
from shared.addresses import Address, AddressError, parse_address
from shared.ledger import hashed
from shared.ledger.models import Suppression
from shared.ledger.suppressions import AnyReason, Entry, suppress


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which suppressions, newest first."""

    email: str | None = None  # only this mailbox
    reason: AnyReason | None = None
    below: int | None = None  # only those with smaller ids
    limit: int = 100


@dataclass(frozen=True, slots=True)
class Matching:
    """Suppressions to remove at once: those that meet every condition given."""

    campaign_id: UUID | None = None  # the campaign that led to them
    reason: AnyReason | None = None
    since: datetime | None = None  # made then or later


@dataclass(frozen=True, slots=True)
class Whose:
    """The suppressions of a project, and what is needed to find erased people."""

    project_id: UUID
    #: See CommonSettings.hash_roots.
    hash_roots: Sequence[bytes]


_HASHED = col(Suppression.email_key).startswith(hashed.PREFIX)
SHOWN = or_(col(Suppression.email) != "", _HASHED)
"""Not the address that keeps a person suppressed while the person is being erased."""


async def list_suppressions(connection: AsyncConnection, whose: Whose, wanted: Wanted) -> Page[SuppressionOut]:
    """Raises InvalidError if `email` is no address, and HashesSealedError."""
    query = select(Suppression.__table__).where(  # type: ignore[attr-defined]
        col(Suppression.project_id) == whose.project_id, SHOWN
    )
    if wanted.email is not None:
        address = _asked_for(wanted.email)
        by_hash = await erasure.key_of(connection, whose.project_id, whose.hash_roots, address)
        query = query.where(col(Suppression.email_key).in_([address.key, by_hash or address.key]))
    if wanted.reason is not None:
        query = query.where(col(Suppression.reason) == wanted.reason)
    if wanted.below is not None:
        query = query.where(col(Suppression.id) < wanted.below)
    found = await connection.execute(query.order_by(col(Suppression.id).desc()).limit(wanted.limit + 1))
    page, following = cut(found.all(), wanted.limit)
    return Page(data=[SuppressionOut.model_validate(row) for row in page], next_cursor=following)


async def add(connection: AsyncConnection, whose: Whose, given: SuppressionsIn) -> Suppressed:
    """Suppresses all addresses or none. People who were erased are suppressed already, without their address. Raises
    InvalidError that points to those that are invalid, and HashesSealedError."""
    single = given.suppressions is None
    many = given.suppressions or [SuppressionIn(email=given.email or "", reason=given.reason, detail=given.detail)]
    addresses = _parsed(many, single=single)
    entries = {
        address.key: Entry(address, one.reason, one.detail)
        for address, one in reversed(list(zip(addresses, many, strict=True)))
    }
    erased = await erasure.erased_among(connection, whose.project_id, whose.hash_roots, entries)
    new = [entry for key, entry in entries.items() if key not in erased]
    added = await suppress(connection, whose.project_id, new) if new else 0
    about(added=added)
    return Suppressed(added=added, known=len(entries) - added)


async def remove(connection: AsyncConnection, whose: Whose, email: str, *, may_lift: bool) -> None:
    """Lets the project write to an address again. With `may_lift` also to a person who was erased. Raises InvalidError,
    NotFoundError if it is not suppressed, ErasedPersonError, ErasureRunningError and HashesSealedError."""
    address = _asked_for(email)
    if await erasure.key_of(connection, whose.project_id, whose.hash_roots, address) is not None:
        if not may_lift:
            raise ErasedPersonError
        await erasure.lift(connection, whose.project_id, whose.hash_roots, address)
        return
    gone = await connection.execute(
        delete(Suppression).where(
            col(Suppression.project_id) == whose.project_id, col(Suppression.email_key) == address.key
        )
    )
    if gone.rowcount == 0:
        raise NotFoundError("suppression of this address")


async def remove_matching(
    connection: AsyncConnection, project_id: UUID, wanted: Matching, *, dry_run: bool = False, may_lift: bool = False
) -> RemovedSuppressions:
    """Removes suppressions, or with `dry_run` only counts them. People who were erased
    stay suppressed, unless `wanted` names that reason. Raises InvalidError if there is no condition, and
    ErasedPersonError without `may_lift`."""
    if wanted.reason == "erased" and not may_lift:
        raise ErasedPersonError
    conditions = [col(Suppression.project_id) == project_id]
    conditions.append(_HASHED if wanted.reason == "erased" else col(Suppression.email) != "")
    if wanted.campaign_id is not None:
        conditions.append(col(Suppression.campaign_id) == wanted.campaign_id)
    if wanted.reason is not None:
        conditions.append(col(Suppression.reason) == wanted.reason)
    if wanted.since is not None:
        conditions.append(col(Suppression.created_at) >= wanted.since.timestamp())
    if wanted == Matching():
        raise InvalidError([{"parameter": "query email", "detail": "give this, or `campaign_id`, `reason`, `since`"}])
    if dry_run:
        matching = await connection.scalar(select(func.count()).select_from(Suppression).where(*conditions))
    else:
        matching = (await connection.execute(delete(Suppression).where(*conditions))).rowcount
    about(removed=0 if dry_run else matching or 0)
    return RemovedSuppressions(removed=0 if dry_run else matching or 0, matching=matching or 0)


def _parsed(given: Sequence[SuppressionIn], *, single: bool) -> list[Address]:
    addresses = []
    errors = []
    for index, one in enumerate(given):
        try:
            addresses.append(parse_address(one.email))
        except AddressError as error:
            pointer = "#/email" if single else f"#/suppressions/{index}/email"
            errors.append({"pointer": pointer, "detail": error.reason})
    if errors:
        raise InvalidError(errors)
    return addresses


def _asked_for(email: str) -> Address:
    try:
        return parse_address(email)
    except AddressError as error:
        raise InvalidError([{"parameter": "query email", "detail": error.reason}]) from None

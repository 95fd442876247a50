"""Suppressions: addresses to which a project does not write."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import delete, func, select
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
from services.api.usecases.acts import about
from services.api.usecases.errors import InvalidError, NotFoundError
from services.api.usecases.paging import cut
from shared.addresses import Address, AddressError, parse_address
from shared.ledger.models import Suppression
from shared.ledger.suppressions import Entry, Reason, suppress


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which suppressions, newest first."""

    email: str | None = None  # only this mailbox
    reason: Reason | None = None
    below: int | None = None  # only those with smaller ids
    limit: int = 100


@dataclass(frozen=True, slots=True)
class Matching:
    """Suppressions to remove at once: those that meet every condition given."""

    campaign_id: UUID | None = None  # the campaign that led to them
    reason: Reason | None = None
    since: datetime | None = None  # made then or later


async def list_suppressions(connection: AsyncConnection, project_id: UUID, wanted: Wanted) -> Page[SuppressionOut]:
    """Raises InvalidError if `email` is no address."""
    query = select(Suppression.__table__).where(col(Suppression.project_id) == project_id)  # type: ignore[attr-defined]
    if wanted.email is not None:
        query = query.where(col(Suppression.email_key) == _asked_for(wanted.email).key)
    if wanted.reason is not None:
        query = query.where(col(Suppression.reason) == wanted.reason)
    if wanted.below is not None:
        query = query.where(col(Suppression.id) < wanted.below)
    found = await connection.execute(query.order_by(col(Suppression.id).desc()).limit(wanted.limit + 1))
    page, following = cut(found.all(), wanted.limit)
    return Page(data=[SuppressionOut.model_validate(row) for row in page], next_cursor=following)


async def add(connection: AsyncConnection, project_id: UUID, given: SuppressionsIn) -> Suppressed:
    """Suppresses all addresses or none. Raises InvalidError that points to those that are invalid."""
    single = given.suppressions is None
    many = given.suppressions or [SuppressionIn(email=given.email or "", reason=given.reason, detail=given.detail)]
    addresses = _parsed(many, single=single)
    entries = {
        address.key: Entry(address, one.reason, one.detail)
        for address, one in reversed(list(zip(addresses, many, strict=True)))
    }
    added = await suppress(connection, project_id, list(entries.values()))
    about(added=added)
    return Suppressed(added=added, known=len(entries) - added)


async def remove(connection: AsyncConnection, project_id: UUID, email: str) -> None:
    """Lets the project write to an address again. Raises InvalidError, and NotFoundError if it is not suppressed."""
    key = _asked_for(email).key
    gone = await connection.execute(
        delete(Suppression).where(col(Suppression.project_id) == project_id, col(Suppression.email_key) == key)
    )
    if gone.rowcount == 0:
        raise NotFoundError("suppression of this address")


async def remove_matching(
    connection: AsyncConnection, project_id: UUID, wanted: Matching, *, dry_run: bool = False
) -> RemovedSuppressions:
    """Removes suppressions, or with `dry_run` only counts them. Raises InvalidError if there is no condition."""
    conditions = [col(Suppression.project_id) == project_id]
    if wanted.campaign_id is not None:
        conditions.append(col(Suppression.campaign_id) == wanted.campaign_id)
    if wanted.reason is not None:
        conditions.append(col(Suppression.reason) == wanted.reason)
    if wanted.since is not None:
        conditions.append(col(Suppression.created_at) >= wanted.since.timestamp())
    if len(conditions) == 1:
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

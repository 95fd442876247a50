"""A campaign's recipients by status. However large the campaign is, only ranges that hold such recipients are read."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    CompoundSelect,
    Executable,
    Integer,
    Row,
    Select,
    Uuid,
    bindparam,
    func,
    or_,
    select,
)
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from services.api.shapes.common import Page
from services.api.shapes.recipients import RecipientOut
from services.api.usecases import campaign_row
from services.api.usecases.campaign_row import CampaignRef
from services.api.usecases.paging import cut
from services.api.usecases.provider_waits import waiting_for
from shared.addresses import Address
from shared.ledger.batches import in_state
from shared.ledger.in_order import IN_ORDER, REPORTS_IN_ORDER, in_ranges, recipients_after, reports_after
from shared.ledger.models import Batch, Import, Recipient
from shared.ledger.states import IMPORT_UNFINISHED, LIVE, OPEN, RecipientStatus

RANGES_AT_ONCE = 25

_COLUMNS = [getattr(Recipient, name) for name in RecipientOut.model_fields if name != "waiting_for"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which recipients, in the order of import."""

    status: RecipientStatus | None  # None: any
    after: int  # recipients with larger ids
    limit: int
    reported: str | None = None  # only those with such a report, one of counts.REPORTED
    #: Only as many as have this much data together, but one at least: then fewer than wanted are not the last.
    data_bytes: int | None = None


async def list_recipients(connection: AsyncConnection, campaign: CampaignRef, wanted: Wanted) -> Page[RecipientOut]:
    """Raises NotFoundError and ForgottenError."""
    rows, following = cut(await read(connection, campaign, wanted), wanted.limit)
    shown = [RecipientOut.model_validate({**row._asdict(), "waiting_for": waiting_for(row)}) for row in rows]
    return Page(data=shown, next_cursor=following)


async def read(connection: AsyncConnection, campaign: CampaignRef, wanted: Wanted) -> list[Row[Any]]:
    """The rows, one more than wanted if there are as many. Raises NotFoundError and ForgottenError."""
    row = await campaign_row.find_kept(connection, campaign)
    if wanted.status is None and wanted.reported is None:
        return await _all_after(connection, campaign.id, wanted)
    listed = [_listed(campaign.id)]
    if wanted.status is not None:
        listed.append(col(Recipient.status) == wanted.status.value)
    if wanted.reported is not None:
        return await _with_report(connection, campaign.id, listed, wanted.reported, wanted)
    return await _with_status(connection, row, listed, wanted)


async def first(connection: AsyncConnection, campaign: CampaignRef) -> Row[Any] | None:
    """Id, email and data of the campaign's first recipient who is not erased; None if there are none."""
    return await _one(connection, campaign, recipients_after(campaign.id), col(Recipient.email) != "")


async def by_address(connection: AsyncConnection, campaign: CampaignRef, address: Address) -> Row[Any] | None:
    """Id, email and data of the recipient with this mailbox; None if there is none."""
    mine = col(Recipient.campaign_id) == campaign.id  # so that the unique index finds it
    return await _one(connection, campaign, mine, col(Recipient.email_key) == address.key)


async def _one(connection: AsyncConnection, campaign: CampaignRef, *conditions: ColumnElement[bool]) -> Row[Any] | None:
    columns = [getattr(Recipient, name) for name in ("id", "email", "data")]
    query = select(*columns).where(_listed(campaign.id), *conditions).order_by(*IN_ORDER).limit(1)
    found = await connection.execute(query)
    row: Row[Any] | None = found.first()
    return row


def _listed(campaign_id: UUID | BindParameter[UUID]) -> ColumnElement[bool]:
    """Not of an import that may still be refused."""
    unfinished = select(col(Import.id)).where(
        col(Import.campaign_id) == campaign_id, col(Import.state).in_(IMPORT_UNFINISHED)
    )
    return or_(col(Recipient.import_id).is_(None), col(Recipient.import_id).not_in(unfinished))


async def _all_after(connection: AsyncConnection, campaign_id: UUID, wanted: Wanted) -> list[Row[Any]]:
    values = {"campaign_id": campaign_id, "after": wanted.after, "limit": wanted.limit + 1}
    if wanted.data_bytes is not None:
        values["data_bytes"] = wanted.data_bytes
    query = _query_of_all(connection.dialect.name, is_sized=wanted.data_bytes is not None)
    return list((await connection.execute(query, values)).all())


@cache
def _query_of_all(dialect: str, *, is_sized: bool) -> Executable:
    """Kept, because to make it takes as long as to read a thousand recipients."""
    campaign_id: BindParameter[UUID] = bindparam("campaign_id", type_=Uuid())
    after: BindParameter[int] = bindparam("after", type_=BigInteger())
    query = (
        select(*_COLUMNS)
        .where(recipients_after(campaign_id, after), _listed(campaign_id))
        .order_by(*IN_ORDER)
        .limit(bindparam("limit", type_=Integer()))
    )
    return _within(dialect, query, bindparam("data_bytes", type_=BigInteger())) if is_sized else query


async def _with_report(
    connection: AsyncConnection, campaign_id: UUID, conditions: list[ColumnElement[bool]], kind: str, wanted: Wanted
) -> list[Row[Any]]:
    """One more than wanted, if there are as many. Goes through the reports, which are fewer than recipients."""
    limit, after = wanted.limit + 1, wanted.after
    mine = col(Recipient.campaign_id) == campaign_id
    rows: list[Row[Any]] = []
    while len(rows) < limit:
        found = await connection.execute(
            select(*REPORTS_IN_ORDER)
            .where(reports_after(campaign_id, kind, after))
            .order_by(*REPORTS_IN_ORDER)
            .distinct()
            .limit(limit)
        )
        ids = [row.recipient_id for row in found]
        rows += await _read(connection, [*conditions, mine, col(Recipient.id).in_(ids)], limit - len(rows), wanted)
        if len(ids) < limit or (rows and wanted.data_bytes is not None):
            break
        after = ids[-1]
    return rows


async def _with_status(
    connection: AsyncConnection, campaign: Row[Any], conditions: list[ColumnElement[bool]], wanted: Wanted
) -> list[Row[Any]]:
    """One more than wanted, if there are as many. Goes through the batches that count such recipients; beyond the last
    batch all are pending."""
    assert wanted.status is not None
    limit, after = wanted.limit + 1, wanted.after
    rows: list[Row[Any]] = []
    while len(rows) < limit:
        still = replace(wanted, after=after, limit=limit - len(rows))
        ranges = await _ranges(connection, campaign.id, still)
        if not ranges:
            break
        unread = [(max(first, after + 1), last) for first, last in ranges]
        query = in_ranges(_COLUMNS, campaign.id, unread, still.limit, *conditions)
        found = await _within_bytes(connection, query, wanted)
        rows += sorted(found, key=lambda row: row.id)[: still.limit]
        if rows and wanted.data_bytes is not None:
            return rows
        after = ranges[-1][1]
    if wanted.status is RecipientStatus.PENDING and len(rows) < limit:
        beyond = recipients_after(campaign.id, max(after, campaign.cursor))
        rows += await _read(connection, [*conditions, beyond], limit - len(rows), wanted)
    return rows


async def _ranges(connection: AsyncConnection, campaign_id: UUID, wanted: Wanted) -> Sequence[tuple[int, int]]:
    """The next ranges that together hold as many as are wanted, or as many ranges as are read at once."""
    assert wanted.status is not None
    count, missing = getattr(Batch, wanted.status.value), wanted.limit
    may_hold = [count > 0, in_state(*LIVE)] if wanted.status in OPEN else [count > 0]
    found = await connection.execute(
        select(col(Batch.first_id), col(Batch.last_id), count)
        .where(col(Batch.campaign_id) == campaign_id, col(Batch.last_id) > wanted.after, *may_hold)
        .order_by(col(Batch.first_id))
        .limit(RANGES_AT_ONCE)
    )
    ranges: list[tuple[int, int]] = []
    for first, last, held in found:
        ranges.append((first, last))
        missing -= held
        if missing <= 0:
            break
    return ranges


async def _read(
    connection: AsyncConnection, conditions: list[ColumnElement[bool]], limit: int, wanted: Wanted
) -> list[Row[Any]]:
    query = select(*_COLUMNS).where(*conditions).order_by(*IN_ORDER).limit(limit)
    return list(await _within_bytes(connection, query, wanted))


async def _within_bytes(
    connection: AsyncConnection, query: Select[Any] | CompoundSelect[Any], wanted: Wanted
) -> Sequence[Row[Any]]:
    sized = query if wanted.data_bytes is None else _within(connection.dialect.name, query, wanted.data_bytes)
    rows: Sequence[Row[Any]] = (await connection.execute(sized)).all()
    return rows


def _within(
    dialect: str, query: Select[Any] | CompoundSelect[Any], data_bytes: int | BindParameter[int]
) -> Select[*tuple[Any, ...]]:
    """The same query, without the recipients before which `data_bytes` are reached."""
    found = query.subquery()
    octets = (func.octet_length if dialect == "postgresql" else func.length)(found.c.data)
    before = func.coalesce(func.sum(octets).over(order_by=found.c.id, rows=(None, -1)), 0)
    sized = select(found, before.label("before")).subquery()
    columns = [sized.c[column.name] for column in found.c]
    return select(*columns).where(sized.c.before < data_bytes).order_by(sized.c.id)

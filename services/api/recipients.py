"""A campaign's recipients, by status: only ranges that hold such recipients are read, however large the campaign is."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from sqlalchemy import ColumnElement, Row, and_, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from services.api import campaign_row
from services.api.auth import JsonRoute, key_required
from services.api.context import ApiDep, ProjectDep
from services.api.shapes import Fields, Page, moment
from shared.ledger.models import Batch, Import, Recipient
from shared.ledger.states import IMPORT_UNFINISHED, RecipientStatus

MAX_PAGE = 1000
RANGES_AT_ONCE = 25

router = APIRouter(
    prefix="/v1/campaigns/{campaign_id}", tags=["recipients"], route_class=JsonRoute, dependencies=[key_required]
)


class RecipientOut(BaseModel):
    id: int
    email: str
    data: Fields
    status: RecipientStatus
    attempts: int
    next_attempt_at: datetime | None
    smtp_code: int | None = Field(examples=[550])
    enhanced_code: str | None = Field(examples=["5.1.1"])
    reply: str | None = Field(description="What the relay said last.", examples=["No such user here"])
    relay: str | None
    queue_id: str | None = Field(description="The relay's own name for the email, from its last reply.")
    sent_at: datetime | None


_NAMES = tuple(RecipientOut.model_fields)
_COLUMNS = [getattr(Recipient, name) for name in _NAMES]


@router.get("/recipients", summary="List recipients, in the order they were imported")
async def list_recipients(
    campaign_id: UUID,
    api: ApiDep,
    project_id: ProjectDep,
    status: Annotated[RecipientStatus | None, Query(description="Only these.")] = None,
    cursor: Annotated[int, Query(ge=0, lt=2**63)] = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 100,
) -> Page[RecipientOut]:
    async with api.ledger.read() as connection:
        campaign = await campaign_row.find(connection, project_id, campaign_id)
        listed = await _counting(connection, campaign_id)
        if status is None:
            rows = await _read(connection, [*listed, col(Recipient.id) > cursor], limit + 1)
        else:
            rows = await _with_status(connection, campaign, listed, status, cursor, limit + 1)
    return Page(
        data=[_shown(row) for row in rows[:limit]],
        next_cursor=str(rows[limit - 1].id) if len(rows) > limit else None,
    )


async def _counting(connection: AsyncConnection, campaign_id: UUID) -> list[ColumnElement[bool]]:
    """The campaign's recipients, without those of an import that may yet be refused."""
    unfinished = await connection.execute(
        select(col(Import.id)).where(col(Import.campaign_id) == campaign_id, col(Import.state).in_(IMPORT_UNFINISHED))
    )
    return [
        col(Recipient.campaign_id) == campaign_id,
        *(col(Recipient.import_id).is_distinct_from(import_id) for import_id in unfinished.scalars()),
    ]


async def _with_status(
    connection: AsyncConnection,
    campaign: Row[Any],
    listed: list[ColumnElement[bool]],
    status: RecipientStatus,
    after: int,
    wanted: int,
) -> list[Row[Any]]:
    """Goes through the batches that count such recipients; beyond the last batch all are pending."""
    conditions = [*listed, col(Recipient.status) == status.value]
    rows: list[Row[Any]] = []
    while len(rows) < wanted:
        ranges = await _ranges(connection, campaign.id, status, after, wanted - len(rows))
        if not ranges:
            break
        within = or_(*(col(Recipient.id).between(max(first, after + 1), last) for first, last in ranges))
        rows += await _read(connection, [*conditions, within], wanted - len(rows))
        after = ranges[-1][1]
    if status is RecipientStatus.PENDING and len(rows) < wanted:
        beyond = col(Recipient.id) > max(after, campaign.cursor)
        rows += await _read(connection, [*conditions, beyond], wanted - len(rows))
    return rows


async def _ranges(
    connection: AsyncConnection, campaign_id: UUID, status: RecipientStatus, after: int, wanted: int
) -> Sequence[tuple[int, int]]:
    """The next ranges that together hold as many as are wanted, or as many ranges as are read at once."""
    count = getattr(Batch, status.value)
    found = await connection.execute(
        select(col(Batch.first_id), col(Batch.last_id), count)
        .where(and_(col(Batch.campaign_id) == campaign_id, col(Batch.last_id) > after, count > 0))
        .order_by(col(Batch.first_id))
        .limit(RANGES_AT_ONCE)
    )
    ranges: list[tuple[int, int]] = []
    for first, last, held in found:
        ranges.append((first, last))
        wanted -= held
        if wanted <= 0:
            break
    return ranges


async def _read(connection: AsyncConnection, conditions: list[ColumnElement[bool]], limit: int) -> list[Row[Any]]:
    rows = await connection.execute(select(*_COLUMNS).where(*conditions).order_by(col(Recipient.id)).limit(limit))
    return list(rows)


def _shown(row: Row[Any]) -> RecipientOut:
    values = {name: getattr(row, name) for name in _NAMES}
    values["data"] = orjson.loads(row.data) if row.data else {}
    for name in ("next_attempt_at", "sent_at"):
        values[name] = moment(values[name])
    return RecipientOut(**values)

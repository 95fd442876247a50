"""Campaigns: create, list, show, change, delete."""

from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import APIRouter, Query, Request, Response
from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col
from uuid6 import uuid7

from services.api import campaign_row, content, rate
from services.api.auth import JsonRoute, key_required
from services.api.context import ApiDep, ProjectDep
from services.api.idempotency import OnceDep
from services.api.problems import Problem, invalid
from services.api.rows import Row, RowError, make_row
from services.api.shapes import (
    CampaignIn,
    CampaignOut,
    CampaignPatch,
    CampaignSummary,
    Mailbox,
    Page,
    RecipientIn,
    summary_of,
)
from services.api.store import store
from shared.content import CampaignContent
from shared.ledger import timeline
from shared.ledger.counts import counts, counts_of
from shared.ledger.database import clock, db_now
from shared.ledger.models import Batch, Campaign, Import, Recipient
from shared.ledger.states import EDITABLE, FINAL, CampaignStatus, ImportState

DELETE_CHUNK_ROWS = 10_000
DEFAULT_PAGE = 50
MAX_PAGE = 500

router = APIRouter(prefix="/v1/campaigns", tags=["campaigns"], route_class=JsonRoute, dependencies=[key_required])

_WHILE_SENDING = {"emails_per_second", "priority"}
_CONTENT = ("subject", "html", "text", "attachments")
_NOT_NULL = {"name", "sender", "subject", "delivery", "priority", "max_retries", "retry_delay_seconds", "attachments"}


@router.post("", status_code=201, response_model=CampaignOut, summary="Create a draft")
async def create(body: CampaignIn, request: Request, api: ApiDep, project_id: ProjectDep, once: OnceDep) -> Response:
    """Makes a draft. A small list of recipients may come along; all of them must be valid."""
    stored = CampaignContent(**body.model_dump(include=set(_CONTENT)))
    compiled = await content.check(stored)
    rows = unique_rows(body.recipients, content.required_fields(compiled))
    async with api.ledger.write() as connection:
        campaign_id = await insert_campaign(
            connection,
            project_id=project_id,
            name=body.name,
            from_email=body.sender.email,
            from_name=body.sender.name,
            reply_to=body.reply_to,
            envelope_from=body.envelope_from or body.sender.email,
            content=stored.model_dump_json(),
            **body.model_dump(
                include={"delivery", "emails_per_second", "priority", "max_retries", "retry_delay_seconds"}
            ),
        )
        await rate.set_limit(connection, campaign_id, body.emails_per_second)
        await timeline.record(connection, campaign_id, "created", "Created.")
        if rows:
            await add_inline(connection, campaign_id, rows, given=len(body.recipients))
        shown = await _shown(connection, project_id, campaign_id)
        return await once.answer(connection, 201, shown, headers={"Location": f"{request.url.path}/{campaign_id}"})


@router.get("", summary="List campaigns, newest first")
async def list_campaigns(
    api: ApiDep,
    project_id: ProjectDep,
    status: Annotated[list[CampaignStatus] | None, Query(description="Only these; may be repeated.")] = None,
    include_tests: Annotated[bool, Query(description="Test campaigns too.")] = False,
    cursor: UUID | None = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = DEFAULT_PAGE,
) -> Page[CampaignSummary]:
    query = select(*campaign_row.COLUMNS).where(col(Campaign.project_id) == project_id)
    if status:
        query = query.where(col(Campaign.status).in_([one.value for one in status]))
    if not include_tests:
        query = query.where(col(Campaign.test_of).is_(None))
    if cursor:
        query = query.where(col(Campaign.id) < cursor)
    async with api.ledger.read() as connection:
        rows = (await connection.execute(query.order_by(col(Campaign.id).desc()).limit(limit + 1))).all()
        by_id = await counts_of(connection, [row.id for row in rows[:limit]])
        now = await clock(connection)
    return Page(
        data=[CampaignSummary(**summary_of(row, by_id[row.id], now)) for row in rows[:limit]],
        next_cursor=str(rows[limit - 1].id) if len(rows) > limit else None,
    )


@router.get("/{campaign_id}", summary="Show a campaign")
async def show(campaign_id: UUID, api: ApiDep, project_id: ProjectDep) -> CampaignOut:
    async with api.ledger.read() as connection:
        return await _shown(connection, project_id, campaign_id)


@router.patch("/{campaign_id}", summary="Change a campaign while nothing was sent")
async def change(campaign_id: UUID, body: CampaignPatch, api: ApiDep, project_id: ProjectDep) -> CampaignOut:
    """`emails_per_second` and `priority` also change while it is being sent; the rest is frozen by `send`."""
    given = body.model_fields_set
    if not given:
        return await show(campaign_id, api, project_id)
    for name in sorted(given & _NOT_NULL):
        if getattr(body, name) is None:
            raise invalid(f"#/{'from' if name == 'sender' else name}", "cannot be null; leave it out to keep it")
    async with api.ledger.read() as connection:
        row = await campaign_row.find(connection, project_id, campaign_id)
        previous = await campaign_row.content_of(connection, campaign_id)
    values = _changed_columns(body, given)
    compiled = None
    if given & set(_CONTENT):
        merged = orjson.loads(previous) | body.model_dump(include=given & set(_CONTENT), mode="json")
        fresh = CampaignContent.model_validate(merged)
        compiled = await content.check(fresh)
        values["content"] = fresh.model_dump_json()
    async with api.ledger.write() as connection:
        row = await campaign_row.lock(connection, project_id, campaign_id)
        if given - _WHILE_SENDING:
            campaign_row.require_editable(row, "this change")
        elif CampaignStatus(row.status) in (*FINAL, CampaignStatus.STOPPING):
            raise campaign_row.wrong_state(row, "this change")
        if compiled is not None:
            await campaign_row.require_no_import(connection, campaign_id, "a change of its content")
            if await campaign_row.content_of(connection, campaign_id) != previous:
                raise Problem(409, "changed-meanwhile", "Somebody else changed it", "Look at it again, then repeat.")
            await content.check_stored(connection, campaign_id, compiled)
        if "scheduled_at" in given:
            await _reschedule(connection, row, body)
        if values:
            await connection.execute(update(Campaign).where(col(Campaign.id) == campaign_id).values(**values))
        if "emails_per_second" in given:
            await rate.set_limit(connection, campaign_id, body.emails_per_second)
        await timeline.record(connection, campaign_id, "changed", f"Changed: {', '.join(sorted(given))}.")
        return await _shown(connection, project_id, campaign_id)


@router.delete("/{campaign_id}", status_code=204, summary="Delete a campaign while nothing was sent")
async def remove(campaign_id: UUID, api: ApiDep, project_id: ProjectDep) -> None:
    """Its recipients go in chunks: a large list holds nobody up. Repeat it if it is cut off."""
    while True:
        async with api.ledger.write() as connection:
            row = await campaign_row.lock(connection, project_id, campaign_id)
            campaign_row.require_editable(row, "DELETE")
            await campaign_row.require_no_import(connection, campaign_id, "DELETE")
            if row.status != CampaignStatus.DRAFT:
                # A schedule that comes due between two chunks must not send to what is left.
                await campaign_row.move(connection, row, CampaignStatus.DRAFT, "DELETE", scheduled_at=None)
            chunk = (
                select(col(Recipient.id))
                .where(col(Recipient.campaign_id) == campaign_id)
                .order_by(col(Recipient.id))
                .limit(DELETE_CHUNK_ROWS)
            )
            gone = await connection.execute(delete(Recipient).where(col(Recipient.id).in_(chunk)))
            await connection.execute(
                update(Campaign)
                .where(col(Campaign.id) == campaign_id)
                .values(total=col(Campaign.total) - gone.rowcount)
            )
            if gone.rowcount < DELETE_CHUNK_ROWS:
                await rate.set_limit(connection, campaign_id, None)
                await connection.execute(delete(Campaign).where(col(Campaign.id) == campaign_id))
                return


async def insert_campaign(connection: AsyncConnection, **values: Any) -> UUID:
    """Stores a campaign row and returns its id."""
    campaign_id = UUID(int=uuid7().int)
    columns = {"status": CampaignStatus.DRAFT.value, **values, "id": campaign_id, "created_at": db_now()}
    await connection.execute(insert(Campaign).values(**columns))
    return campaign_id


async def add_inline(connection: AsyncConnection, campaign_id: UUID, rows: list[Row], *, given: int) -> None:
    """Stores recipients that came inside a request, as an import that is done."""
    created = await connection.execute(
        insert(Import)
        .values(
            campaign_id=campaign_id,
            format="inline",
            state=ImportState.DONE.value,
            lines=given,
            accepted=len(rows),
            duplicates=given - len(rows),
            created_at=db_now(),
            updated_at=db_now(),
            finished_at=db_now(),
        )
        .returning(col(Import.id))
    )
    await store(connection, campaign_id, created.scalar_one(), rows, 0)
    await connection.execute(
        update(Campaign).where(col(Campaign.id) == campaign_id).values(total=col(Campaign.total) + len(rows))
    )


def unique_rows(recipients: list[RecipientIn], required: frozenset[str]) -> list[Row]:
    """The recipients of a request body, each mailbox once. Raises Problem 422 that points to the wrong ones."""
    rows: dict[str, Row] = {}
    errors = []
    for index, recipient in enumerate(recipients):
        try:
            row = make_row(index + 1, recipient.email, recipient.data, required)
        except RowError as error:
            member = f"data/{error.field}" if error.field else "email"
            errors.append({"pointer": f"#/recipients/{index}/{member}", "detail": error.reason})
        else:
            rows.setdefault(row.key, row)
    if errors:
        detail = f"{errors[0]['pointer']}: {errors[0]['detail']}" + (
            f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        )
        raise Problem(422, "invalid", "The request is not valid", detail, errors=errors[:100])
    return list(rows.values())


def _changed_columns(body: CampaignPatch, given: set[str]) -> dict[str, Any]:
    values = body.model_dump(include=given - {*_CONTENT, "sender", "scheduled_at"})
    if body.sender is not None:
        values |= {"from_email": body.sender.email, "from_name": body.sender.name}
    if "envelope_from" in given and body.envelope_from is None:
        values["envelope_from"] = body.sender.email if body.sender else col(Campaign.from_email)
    return values


async def _reschedule(connection: AsyncConnection, row: Any, body: CampaignPatch) -> None:
    if row.status != CampaignStatus.SCHEDULED:
        raise Problem(
            409,
            "wrong-state",
            "The campaign is not scheduled",
            "scheduled_at changes only while a campaign is scheduled. POST .../send schedules a draft.",
            campaign_status=row.status,
        )
    if body.scheduled_at is None:
        await campaign_row.move(
            connection, row, CampaignStatus.DRAFT, "this change", scheduled_at=None, deliver_by=None
        )
        return
    scheduled_at = body.scheduled_at.timestamp()
    if scheduled_at <= await clock(connection):
        raise invalid("#/scheduled_at", "lies in the past; POST .../send without it sends now")
    if row.deliver_by is not None and row.deliver_by <= scheduled_at:
        raise invalid("#/scheduled_at", "lies beyond deliver_by; POST .../send with both sets both")
    await connection.execute(
        update(Campaign)
        .where(col(Campaign.id) == row.id, col(Campaign.status).in_([status.value for status in EDITABLE]))
        .values(scheduled_at=scheduled_at)
    )


async def _rescued(connection: AsyncConnection, campaign_id: UUID) -> int:
    rescues = select(func.coalesce(func.sum(col(Batch.rescues)), 0)).where(col(Batch.campaign_id) == campaign_id)
    return int((await connection.execute(rescues)).scalar_one())


async def _shown(connection: AsyncConnection, project_id: UUID, campaign_id: UUID) -> CampaignOut:
    row = await campaign_row.find(connection, project_id, campaign_id)
    stored = orjson.loads(await campaign_row.content_of(connection, campaign_id))
    return CampaignOut(
        **summary_of(row, await counts(connection, campaign_id), await clock(connection)),
        sender=Mailbox.model_construct(email=row.from_email, name=row.from_name),
        subject=stored["subject"],
        html=stored.get("html"),
        text=stored.get("text"),
        attachments=[one["filename"] for one in stored.get("attachments", ())],
        reopening=row.reopen,
        rescued=await _rescued(connection, campaign_id),
        **{
            name: getattr(row, name)
            for name in ("reply_to", "envelope_from", "delivery", "max_retries", "retry_delay_seconds")
        },
    )

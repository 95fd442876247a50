"""What one can do with a campaign: send, pause, resume, cancel, retry-failed, resolve-unknown, test.

Each is one transaction: the campaign's row first, the change guarded by the state it comes from, a line in the
timeline. The dispatcher is told afterwards; should it not hear of it, the ledger's clock tells it.
"""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Body, Request, Response
from pydantic import AwareDatetime, Field
from sqlalchemy import Row, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from services.api import campaign_row, content, shapes
from services.api.auth import JsonRoute, key_required
from services.api.campaigns import add_inline, insert_campaign, unique_rows
from services.api.context import Api, ApiDep, ProjectDep
from services.api.idempotency import Once, OnceDep
from services.api.problems import Problem, invalid
from services.api.shapes import MAX_TEST_RECIPIENTS, CampaignSummary, RecipientIn, moment, summary_of
from shared.content import CampaignContent
from shared.ledger import timeline
from shared.ledger.counts import counts
from shared.ledger.database import clock, db_now
from shared.ledger.models import Campaign
from shared.ledger.states import EDITABLE, CampaignStatus

TEST_PRIORITY = 100

router = APIRouter(
    prefix="/v1/campaigns/{campaign_id}", tags=["actions"], route_class=JsonRoute, dependencies=[key_required]
)


class SendIn(shapes.Body):
    scheduled_at: AwareDatetime | None = Field(None, description="Not before this moment; absent: now.")
    deliver_by: AwareDatetime | None = Field(
        None, description="What is not sent by then is never sent. Default: 72 hours after the start."
    )


class ReopenIn(shapes.Body):
    deliver_by: AwareDatetime | None = Field(None, description="A new one; needed by nobody: it is extended if passed.")


class ResolveIn(ReopenIn):
    resolve_as: Literal["sent", "resend"] = Field(
        alias="as", description="`sent`: count them as sent. `resend`: send them again, at the risk of a second copy."
    )


class TestIn(shapes.Body):
    recipients: list[RecipientIn] = Field(min_length=1, max_length=MAX_TEST_RECIPIENTS)


@router.post("/send", status_code=202, response_model=CampaignSummary, summary="Send, now or at a moment")
async def send(
    campaign_id: UUID,
    api: ApiDep,
    project_id: ProjectDep,
    once: OnceDep,
    body: Annotated[SendIn, Body()] = SendIn(),
) -> Response:
    """202 means: it is in the ledger and will be sent, whatever happens to the broker or to this process."""
    async with api.ledger.read() as connection:
        await campaign_row.find(connection, project_id, campaign_id)
        stored = await campaign_row.content_of(connection, campaign_id)
    # It was checked when it came in, but perhaps by an older release.
    await content.check(CampaignContent.model_validate_json(stored))
    async with api.ledger.write() as connection:
        row = await campaign_row.lock(connection, project_id, campaign_id)
        campaign_row.require_editable(row, "send")
        await campaign_row.require_no_import(connection, campaign_id, "send")
        if row.total == 0:
            raise Problem(409, "no-recipients", "The campaign has no recipients", "Import recipients first, then send.")
        now = await clock(connection)
        scheduled_at = body.scheduled_at.timestamp() if body.scheduled_at else None
        if scheduled_at is not None and scheduled_at <= now:
            raise invalid("#/scheduled_at", "lies in the past; leave it out to send now")
        start = scheduled_at or now
        deliver_by = _deliver_by(body.deliver_by, start, api.settings.deliver_within_seconds)
        if scheduled_at is None:
            await campaign_row.move(
                connection, row, CampaignStatus.QUEUED, "send", among=EDITABLE, scheduled_at=None, deliver_by=deliver_by
            )
            await timeline.record(connection, campaign_id, "requested", f"Sending to {row.total} recipients requested.")
        else:
            values: dict[str, Any] = {"scheduled_at": scheduled_at, "deliver_by": deliver_by}
            if row.status == CampaignStatus.SCHEDULED:
                await _change(connection, row, CampaignStatus.SCHEDULED, **values)
            else:
                await campaign_row.move(connection, row, CampaignStatus.SCHEDULED, "send", **values)
            text = f"Scheduled for {moment(scheduled_at):%Y-%m-%d %H:%M:%S} UTC, {row.total} recipients."
            await timeline.record(connection, campaign_id, "scheduled", text)
        return await _accepted(api, once, connection, project_id, campaign_id, "send")


@router.post("/pause", status_code=202, response_model=CampaignSummary, summary="Pause")
async def pause(campaign_id: UUID, api: ApiDep, project_id: ProjectDep, once: OnceDep) -> Response:
    """No email starts later than a second after this answer; those in flight are finished."""
    async with api.ledger.write() as connection:
        row = await campaign_row.lock(connection, project_id, campaign_id)
        await campaign_row.move(
            connection, row, CampaignStatus.PAUSED, "pause", reason="Paused by request.", blocked_by=None
        )
        await timeline.record(connection, campaign_id, "paused", "Paused by request.")
        return await _accepted(api, once, connection, project_id, campaign_id, "pause")


@router.post("/resume", status_code=202, response_model=CampaignSummary, summary="Resume")
async def resume(campaign_id: UUID, api: ApiDep, project_id: ProjectDep, once: OnceDep) -> Response:
    async with api.ledger.write() as connection:
        row = await campaign_row.lock(connection, project_id, campaign_id)
        await campaign_row.move(
            connection, row, CampaignStatus.QUEUED, "resume", among=(CampaignStatus.PAUSED,), reason=None
        )
        await timeline.record(connection, campaign_id, "resumed", "Resumed by request.")
        return await _accepted(api, once, connection, project_id, campaign_id, "resume")


@router.post("/cancel", status_code=202, response_model=CampaignSummary, summary="Cancel what is not sent yet")
async def cancel(campaign_id: UUID, api: ApiDep, project_id: ProjectDep, once: OnceDep) -> Response:
    """What was sent stays sent; the rest becomes `cancelled`. There is no way back. A draft is deleted instead."""
    async with api.ledger.write() as connection:
        row = await campaign_row.lock(connection, project_id, campaign_id)
        await campaign_row.require_no_import(connection, campaign_id, "cancel")
        await campaign_row.move(
            connection,
            row,
            CampaignStatus.STOPPING,
            "cancel",
            stop_as=CampaignStatus.CANCELLED.value,
            reopen=None,
            reason="Cancelled by request.",
            blocked_by=None,
        )
        await timeline.record(connection, campaign_id, "cancelling", "Cancelled by request.")
        return await _accepted(api, once, connection, project_id, campaign_id, "cancel")


@router.post("/retry-failed", status_code=202, response_model=CampaignSummary, summary="Send to the failed again")
async def retry_failed(
    campaign_id: UUID,
    api: ApiDep,
    project_id: ProjectDep,
    once: OnceDep,
    body: Annotated[ReopenIn, Body()] = ReopenIn(),
) -> Response:
    """Every `failed` recipient becomes `pending` again with all its attempts. A closed campaign opens again."""
    return await _reopen(api, once, project_id, campaign_id, "failed", "failed", body.deliver_by, "retry-failed")


@router.post("/resolve-unknown", status_code=202, response_model=CampaignSummary, summary="Settle unknown recipients")
async def resolve_unknown(
    campaign_id: UUID, api: ApiDep, project_id: ProjectDep, once: OnceDep, body: ResolveIn
) -> Response:
    """`unknown` means that the relay fell silent after the message: only a person can decide what to assume."""
    reopen = "unknown_sent" if body.resolve_as == "sent" else "unknown_resend"
    return await _reopen(api, once, project_id, campaign_id, "unknown", reopen, body.deliver_by, "resolve-unknown")


@router.post("/test", status_code=202, response_model=CampaignSummary, summary="Send it to yourself")
async def test(
    campaign_id: UUID, request: Request, api: ApiDep, project_id: ProjectDep, once: OnceDep, body: TestIn
) -> Response:
    """Makes a small campaign of its own with the same message, and sends it before others. The answer tells its id."""
    async with api.ledger.read() as connection:
        await campaign_row.find(connection, project_id, campaign_id)
        stored = await campaign_row.content_of(connection, campaign_id)
    compiled = await content.check(CampaignContent.model_validate_json(stored))
    rows = unique_rows(body.recipients, content.required_fields(compiled))
    async with api.ledger.write() as connection:
        row = await campaign_row.lock(connection, project_id, campaign_id)
        test_id = await insert_campaign(
            connection,
            project_id=project_id,
            name=f"Test: {row.name}"[:200],
            content=await campaign_row.content_of(connection, campaign_id),
            status=CampaignStatus.QUEUED.value,
            test_of=campaign_id,
            priority=TEST_PRIORITY,
            deliver_by=db_now() + api.settings.deliver_within_seconds,
            **{
                name: getattr(row, name)
                for name in (
                    "from_email",
                    "from_name",
                    "reply_to",
                    "envelope_from",
                    "delivery",
                    "max_retries",
                    "retry_delay_seconds",
                )
            },
        )
        await timeline.record(connection, test_id, "created", f"Test of campaign {campaign_id}.")
        await add_inline(connection, test_id, rows, given=len(body.recipients))
        await timeline.record(connection, campaign_id, "tested", f"Test sent to {len(rows)} recipients: {test_id}.")
        location = str(request.url.path).replace(f"{campaign_id}/test", str(test_id))
        return await _accepted(api, once, connection, project_id, test_id, "test", location=location)


async def _reopen(
    api: Api,
    once: Once,
    project_id: UUID,
    campaign_id: UUID,
    status: str,
    reopen: str,
    given_deliver_by: datetime | None,
    action: str,
) -> Response:
    """Asks the dispatcher to open recipients again; it does so batch by batch and clears `reopen`."""
    async with api.ledger.write() as connection:
        row = await campaign_row.lock(connection, project_id, campaign_id)
        current = CampaignStatus(row.status)
        moving = current in (CampaignStatus.QUEUED, CampaignStatus.SENDING, CampaignStatus.PAUSED)
        if (not moving and not campaign_row.may(row, CampaignStatus.QUEUED)) or current in EDITABLE:
            raise campaign_row.wrong_state(row, action)
        if row.reopen not in (None, reopen):
            raise Problem(
                409,
                "reopening",
                "The campaign is still busy with the last such request",
                f"{row.reopen} is not done yet. Repeat this in a moment.",
                headers={"Retry-After": "2"},
            )
        affected = (await counts(connection, campaign_id))[status]
        if affected == 0:
            raise Problem(409, "nothing-to-do", "There is nothing to do", f"No recipient is {status}.")
        now = await clock(connection)
        values: dict[str, Any] = {"reopen": reopen}
        if given_deliver_by is not None or row.deliver_by is None or row.deliver_by <= now:
            values["deliver_by"] = _deliver_by(given_deliver_by, now, api.settings.deliver_within_seconds)
        if moving:
            await _change(connection, row, current, **values)
        else:
            await campaign_row.move(
                connection, row, CampaignStatus.QUEUED, action, reason=None, finished_at=None, **values
            )
        await timeline.record(connection, campaign_id, action, f"{action} requested for {affected} recipients.")
        return await _accepted(api, once, connection, project_id, campaign_id, action)


async def _change(connection: AsyncConnection, row: Row[Any], status: CampaignStatus, **values: Any) -> None:
    """Changes a locked campaign that stays in `status`."""
    await connection.execute(
        update(Campaign).where(col(Campaign.id) == row.id, col(Campaign.status) == status.value).values(**values)
    )


def _deliver_by(given: datetime | None, start: float, default_seconds: float) -> float:
    if given is None:
        return start + default_seconds
    if given.timestamp() <= start:
        raise invalid("#/deliver_by", "must lie after the start; leave it out for the default")
    return given.timestamp()


async def _accepted(
    api: Api,
    once: Once,
    connection: AsyncConnection,
    project_id: UUID,
    campaign_id: UUID,
    action: str,
    location: str | None = None,
) -> Response:
    row = await campaign_row.find(connection, project_id, campaign_id)
    shown = CampaignSummary(**summary_of(row, await counts(connection, campaign_id), await clock(connection)))
    return await once.answer(
        connection,
        202,
        shown,
        headers={"Location": location} if location else None,
        background=api.announce(campaign_id, action),
    )

"""Who got it, who did not and why: recipients by status, their replies in groups, and the message they were sent."""

from typing import Annotated
from uuid import UUID

import orjson
from fastapi import APIRouter, Query, Request, Response

from services.api import campaign_row, recipients
from services.api.context import Api, ApiDep, ProjectDep
from services.api.page import render, replies
from services.api.page.route import PageRoute
from services.api.shapes import CampaignSummary, summary_of
from shared.ledger.counts import counts
from shared.ledger.database import clock
from shared.ledger.states import RecipientStatus

PAGE_SIZE = 50
SOURCE_CHARACTERS = 50_000
WITH_REPLIES = (RecipientStatus.FAILED, RecipientStatus.DEFERRED, RecipientStatus.UNKNOWN)

router = APIRouter(prefix="/campaigns/{campaign_id}", include_in_schema=False, route_class=PageRoute)


@router.get("/failures")
async def failures(
    request: Request,
    campaign_id: UUID,
    api: ApiDep,
    project_id: ProjectDep,
    status: RecipientStatus = RecipientStatus.FAILED,
) -> Response:
    if status not in WITH_REPLIES:
        status = RecipientStatus.FAILED
    campaign = await _summary(api, project_id, campaign_id)
    async with api.ledger.read() as connection:
        groups = await replies.by_reply(connection, campaign_id, status, getattr(campaign.counts, status.value))
    return render.page(
        request,
        "failures.html",
        section="campaigns",
        tab="failures",
        campaign=campaign,
        status=status,
        statuses=WITH_REPLIES,
        found=groups,
        may_retry=status == RecipientStatus.FAILED and campaign.counts.failed > 0,
    )


@router.get("/recipients")
async def listed(
    request: Request,
    campaign_id: UUID,
    api: ApiDep,
    project_id: ProjectDep,
    status: Annotated[str, Query(pattern=f"^({'|'.join(RecipientStatus)}|)$")] = "",
    cursor: Annotated[int, Query(ge=0, lt=2**63)] = 0,
) -> Response:
    campaign = await _summary(api, project_id, campaign_id)
    wanted = RecipientStatus(status) if status else None
    page = await recipients.list_recipients(campaign_id, api, project_id, wanted, cursor, PAGE_SIZE)
    here = f"/campaigns/{campaign_id}/recipients?status={status}"
    return render.page(
        request,
        "recipients.html",
        section="campaigns",
        tab="recipients",
        campaign=campaign,
        status=status,
        recipients=page.data,
        following=f"{here}&cursor={page.next_cursor}" if page.next_cursor else "",
        beginning=here if cursor else "",
    )


@router.get("/message")
async def message(request: Request, campaign_id: UUID, api: ApiDep, project_id: ProjectDep) -> Response:
    campaign = await _summary(api, project_id, campaign_id)
    async with api.ledger.read() as connection:
        row = await campaign_row.find(connection, project_id, campaign_id)
        content = orjson.loads(await campaign_row.content_of(connection, campaign_id))
    return render.page(
        request,
        "message.html",
        section="campaigns",
        tab="message",
        campaign=campaign,
        row=row,
        subject=content.get("subject", ""),
        sources=[
            (title, source[:SOURCE_CHARACTERS], len(source) > SOURCE_CHARACTERS)
            for title, source in (("HTML", content.get("html")), ("Text", content.get("text")))
            if source
        ],
        attachments=[one["filename"] for one in content.get("attachments", ())],
    )


async def _summary(api: Api, project_id: UUID, campaign_id: UUID) -> CampaignSummary:
    async with api.ledger.read() as connection:
        row = await campaign_row.find(connection, project_id, campaign_id)
        return CampaignSummary(**summary_of(row, await counts(connection, campaign_id), await clock(connection)))

"""Recipients by status, and their replies in groups."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from services.api.page import render
from services.api.page.route import PageRoute
from services.api.usecases import campaign_row, recipients, replies, reports, summaries
from services.api.usecases.recipients import Wanted
from services.api.web.context import CampaignDep, ProjectDep
from services.api.web.downloads import recipients_file
from shared.ledger.states import RecipientStatus

PAGE_SIZE = 50
WITH_REPLIES = (RecipientStatus.FAILED, RecipientStatus.DEFERRED, RecipientStatus.UNKNOWN)

router = APIRouter(prefix="/campaigns/{campaign_id}", include_in_schema=False, route_class=PageRoute)


@router.get("/failures")
async def failures(
    request: Request, campaign: CampaignDep, project: ProjectDep, status: RecipientStatus = RecipientStatus.FAILED
) -> Response:
    if status not in WITH_REPLIES:
        status = RecipientStatus.FAILED
    async with project.read() as connection:
        await campaign_row.find_kept(connection, campaign)
        summary = await summaries.summary(connection, campaign)
        total = getattr(summary.counts, status.value)
        found = await replies.by_reply(connection, campaign.id, status, total)
    return render.page(
        request,
        "failures.html",
        section="campaigns",
        tab="failures",
        campaign=summary,
        status=status,
        statuses=WITH_REPLIES,
        found=found,
        may_retry=status == RecipientStatus.FAILED and summary.counts.failed > 0,
    )


@router.get("/reports")
async def reported(request: Request, campaign: CampaignDep, project: ProjectDep) -> Response:
    async with project.read() as connection:
        await campaign_row.find_kept(connection, campaign)
        summary = await summaries.summary(connection, campaign)
        groups = await reports.by_reason(connection, campaign.id)
    return render.page(request, "reports.html", section="campaigns", tab="failures", campaign=summary, groups=groups)


Status = Annotated[str, Query(pattern=f"^({'|'.join(RecipientStatus)}|)$")]
"""Empty: any."""


@router.get("/recipients/export")
async def export(campaign: CampaignDep, project: ProjectDep, status: Status = "") -> Response:
    async with project.read() as connection:
        await campaign_row.find_kept(connection, campaign)
    wanted = Wanted(RecipientStatus(status) if status else None, 0, 0)
    return recipients_file(project.api.ledger, campaign, wanted, "csv")


@router.get("/recipients")
async def listed(
    request: Request,
    campaign: CampaignDep,
    project: ProjectDep,
    status: Status = "",
    cursor: Annotated[int, Query(ge=0, lt=2**63)] = 0,
) -> Response:
    wanted = Wanted(RecipientStatus(status) if status else None, cursor, PAGE_SIZE)
    async with project.read() as connection:
        summary = await summaries.summary(connection, campaign)
        page = await recipients.list_recipients(connection, campaign, wanted)
    here = f"/campaigns/{campaign.id}/recipients?status={status}"
    return render.page(
        request,
        "recipients.html",
        section="campaigns",
        tab="recipients",
        campaign=summary,
        status=status,
        recipients=page.data,
        following=f"{here}&cursor={page.next_cursor}" if page.next_cursor else "",
        beginning=here if cursor else "",
    )

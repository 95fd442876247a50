"""`/v1/campaigns`: create, list, show, change, delete."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field
from sqlalchemy.ext.asyncio import AsyncConnection

from services.api.rest.auth import JsonRoute, key_required
from services.api.rest.idempotency import Answer, OnceDep
from services.api.shapes.campaigns import CampaignIn, CampaignOut, CampaignPatch, CampaignSummary
from services.api.shapes.common import Page
from services.api.usecases import campaigns, changes, summaries
from services.api.usecases.campaigns import Filter
from services.api.web.bodies import holds_room
from services.api.web.context import CampaignDep, ProjectDep
from shared.ledger.states import CampaignStatus

router = APIRouter(prefix="/v1/campaigns", tags=["campaigns"], route_class=JsonRoute, dependencies=[key_required])


class ListQuery(BaseModel):
    status: list[CampaignStatus] | None = Field(None, description="Only these statuses. May be repeated.")
    include_tests: bool = Field(False, description="Include test campaigns.")
    cursor: UUID | None = None
    limit: int = Field(50, ge=1, le=500)


@router.post("", status_code=201, response_model=CampaignOut, summary="Create a draft")
async def create(body: CampaignIn, request: Request, project: ProjectDep, once: OnceDep) -> Response:
    """Creates a draft, with a short list of recipients if you like. All of them must be valid."""

    def answer(shown: CampaignOut) -> Answer:
        return Answer(201, shown, {"Location": f"{request.url.path}/{shown.id}"})

    async def settle(connection: AsyncConnection, shown: CampaignOut) -> None:
        await once.keep(connection, answer(shown))

    return answer(
        await campaigns.create(project.api.ledger, project.tenant, body, project.api.settings.groups, settle)
    ).response()


@router.get("", summary="List campaigns, newest first")
async def list_campaigns(project: ProjectDep, query: Annotated[ListQuery, Query()]) -> Page[CampaignSummary]:
    wanted = Filter(query.status or (), query.include_tests)
    async with project.read() as connection:
        return await campaigns.list_campaigns(connection, project.id, wanted, query.cursor, query.limit)


@router.get("/{campaign_id}", summary="Show a campaign")
async def show(campaign: CampaignDep, project: ProjectDep) -> CampaignOut:
    return await summaries.show_alone(project.api.ledger, campaign)


@router.patch("/{campaign_id}", summary="Change a campaign that is not being sent yet")
async def change(request: Request, campaign: CampaignDep, body: CampaignPatch, project: ProjectDep) -> CampaignOut:
    """`emails_per_second`, `priority` and `deliver_by` can also be changed while the campaign is being sent. `send`
    freezes the rest."""
    api = project.api
    stored = 0 if holds_room(request) else await changes.content_bytes(api.ledger, campaign, body)
    async with api.working.of(stored):
        return await changes.change(
            api.ledger, campaign, body, api.settings.deliver_within_seconds, api.settings.groups
        )


@router.delete("/{campaign_id}", status_code=204, summary="Delete a campaign that is not being sent yet")
async def remove(campaign: CampaignDep, project: ProjectDep) -> None:
    """Repeat the request if it is cut off: recipients are deleted in chunks."""
    await campaigns.remove(project.api.ledger, campaign)

"""`/v1/campaigns/{id}/recipients`: who got it, who did not and why."""

from typing import Annotated

from fastapi import APIRouter, Query

from services.api.rest.auth import JsonRoute, key_required
from services.api.shapes.common import Page
from services.api.shapes.recipients import RecipientOut
from services.api.usecases import recipients
from services.api.usecases.recipients import Wanted
from services.api.web.context import CampaignDep, ProjectDep
from shared.ledger.states import RecipientStatus

router = APIRouter(
    prefix="/v1/campaigns/{campaign_id}", tags=["recipients"], route_class=JsonRoute, dependencies=[key_required]
)


@router.get("/recipients", summary="List recipients, in the order of import")
async def list_recipients(
    campaign: CampaignDep,
    project: ProjectDep,
    status: Annotated[RecipientStatus | None, Query(description="Only recipients in this status.")] = None,
    cursor: Annotated[int, Query(ge=0, lt=2**63)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Page[RecipientOut]:
    async with project.read() as connection:
        return await recipients.list_recipients(connection, campaign, Wanted(status, cursor, limit))

"""`/v1/campaigns/{id}/recipients`: who got it, who did not and why."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

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


class Filter(BaseModel):
    """Which recipients."""

    status: RecipientStatus | None = Field(None, description="Only recipients in this status.")
    reported: Literal["bounced", "complained", "unsubscribed"] | None = Field(
        None, description="Only recipients with such a report."
    )
    cursor: int = Field(0, ge=0, lt=2**63)
    limit: int = Field(100, ge=1, le=1000)


@router.get("/recipients", summary="List recipients, in the order of import")
async def list_recipients(
    campaign: CampaignDep, project: ProjectDep, which: Annotated[Filter, Query()]
) -> Page[RecipientOut]:
    wanted = Wanted(which.status, which.cursor, which.limit, which.reported)
    async with project.read() as connection:
        return await recipients.list_recipients(connection, campaign, wanted)

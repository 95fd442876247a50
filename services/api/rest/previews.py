"""`/v1/campaigns/{id}/preview`: an email as one person would see it."""

from typing import Annotated

from fastapi import APIRouter, Body

from services.api.rest.auth import JsonRoute, key_required
from services.api.shapes.previews import PreviewIn, PreviewOut
from services.api.usecases import preview
from services.api.web.context import CampaignDep, ProjectDep

router = APIRouter(
    prefix="/v1/campaigns/{campaign_id}", tags=["campaigns"], route_class=JsonRoute, dependencies=[key_required]
)


@router.post("/preview", summary="Show the email to one person")
async def show(
    campaign: CampaignDep, project: ProjectDep, body: Annotated[PreviewIn, Body()] = PreviewIn()
) -> PreviewOut:
    """Builds the email as it would be sent, and sends nothing: subject, headers, HTML, text, size, links, missing
    fields and warnings."""
    api = project.api
    async with api.working.of(await preview.content_bytes(api.ledger, campaign)):
        return (await preview.preview(api.ledger, api.settings, campaign, body)).shown

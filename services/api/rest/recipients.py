"""`/v1/campaigns/{id}/recipients`: who got it, who did not and why."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from services.api.rest.auth import JsonRoute, key_required
from services.api.shapes.common import Page
from services.api.shapes.recipients import RecipientOut
from services.api.usecases import campaign_row, recipients
from services.api.usecases.export_lines import Format
from services.api.usecases.recipients import Wanted
from services.api.web.context import CampaignDep, ProjectDep
from services.api.web.downloads import recipients_file
from shared.ledger.states import RecipientStatus

router = APIRouter(
    prefix="/v1/campaigns/{campaign_id}", tags=["recipients"], route_class=JsonRoute, dependencies=[key_required]
)


class Which(BaseModel):
    """Which recipients."""

    status: RecipientStatus | None = Field(None, description="Only recipients in this status.")
    reported: Literal["bounced", "complained", "unsubscribed"] | None = Field(
        None, description="Only recipients with such a report."
    )


class Filter(Which):
    """Which recipients, and which page of them."""

    cursor: int = Field(0, ge=0, lt=2**63)
    limit: int = Field(100, ge=1, le=1000)


@router.get("/recipients", summary="List recipients, in the order of import")
async def list_recipients(
    campaign: CampaignDep, project: ProjectDep, which: Annotated[Filter, Query()]
) -> Page[RecipientOut]:
    wanted = Wanted(which.status, which.cursor, which.limit, which.reported)
    async with project.read() as connection:
        return await recipients.list_recipients(connection, campaign, wanted)


class Exported(Which):
    """Which recipients, and as what file."""

    format: Format = Field("csv", description="`data` is one cell of a CSV, as JSON.")
    gzip: bool = Field(False, description="Packs the file.")


@router.get(
    "/recipients/export",
    response_class=Response,
    responses={
        200: {
            "content": {"text/csv": {}, "application/x-ndjson": {}, "application/gzip": {}},
            "description": "One recipient a line.",
        }
    },
    summary="Export recipients with their results, in the order of import",
)
async def export(campaign: CampaignDep, project: ProjectDep, which: Annotated[Exported, Query()]) -> StreamingResponse:
    """All of them as a stream. A cell that a spreadsheet would take for a formula begins with an apostrophe."""
    async with project.read() as connection:
        await campaign_row.find_kept(connection, campaign)
    wanted = Wanted(which.status, 0, 0, which.reported)
    return recipients_file(project.api.ledger, campaign, wanted, which.format, packed=which.gzip)

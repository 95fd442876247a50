"""`/v1/reports`: what came back after a relay's 250. `/v1/feedback/raw`: a report that came in elsewhere."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from services.api.rest.auth import KeyRoute, key_required
from services.api.shapes.common import Page
from services.api.shapes.reports import HookOut, Kind, ReportOut, TakenOut
from services.api.usecases import reports
from services.api.usecases.reports import Wanted
from services.api.web.bodies import bounded
from services.api.web.context import ProjectDep
from shared.signing import Use

ADVICE = "Cut the message that it returns: the report comes first."

router = APIRouter(prefix="/v1", tags=["feedback"], route_class=KeyRoute, dependencies=[key_required])

_BODY = {
    "requestBody": {
        "required": True,
        "content": {"message/rfc822": {"schema": {"type": "string", "format": "binary"}}},
    }
}


class Filter(BaseModel):
    """Which reports."""

    campaign_id: UUID | None = None
    kind: Kind | None = None
    verified: bool | None = Field(None, description="False: only those that a person has to read.")
    cursor: int | None = Field(None, ge=1, lt=2**63)
    limit: int = Field(100, ge=1, le=1000)


@router.get("/reports", summary="List reports, newest first")
async def list_reports(project: ProjectDep, which: Annotated[Filter, Query()]) -> Page[ReportOut]:
    wanted = Wanted(which.campaign_id, which.kind, which.verified, which.cursor, which.limit)
    async with project.read() as connection:
        return await reports.list_reports(connection, project.tenant, wanted)


@router.post("/feedback/raw", summary="Give us a bounce or a complaint, as a whole mail", openapi_extra=_BODY)
async def take(request: Request, project: ProjectDep) -> TakenOut:
    """The mail as it came in, in any form: a delivery status (RFC 3464), a complaint (RFC 5965), or a letter. It may be
    repeated. Only a token of an email of this project changes anything."""
    api = project.api
    async with bounded(request, api.settings.max_content_bytes, ADVICE, api) as posted:
        octets = await posted.body()
        return await reports.take(api.ledger, api.settings.signing_keys(Use.UNSUBSCRIBE), project.id, octets)


@router.get("/feedback/ses", summary="Show where Amazon SES tells this project what came back")
async def address(project: ProjectDep) -> HookOut:
    """Subscribe this address to the SNS topic of your configuration set. The subscription is confirmed by itself."""
    settings = project.api.settings
    token = reports.hook_token(settings.signing_keys(Use.SES)[0], project.id)
    return HookOut(url=f"{settings.public_url}/hooks/ses/{token}")

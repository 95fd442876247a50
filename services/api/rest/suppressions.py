"""`/v1/suppressions`: addresses to which a project does not write."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import AwareDatetime, BaseModel, Field

from services.api.rest.auth import JsonRoute, key_required
from services.api.rest.idempotency import Answer, OnceDep
from services.api.shapes.common import Page
from services.api.shapes.suppressions import RemovedSuppressions, Suppressed, SuppressionOut, SuppressionsIn
from services.api.usecases import suppression_export, suppressions
from services.api.usecases.errors import InvalidError
from services.api.usecases.export_lines import Format
from services.api.usecases.suppressions import Matching, Wanted
from services.api.web.context import ProjectDep, whose
from services.api.web.downloads import file_of
from shared.ledger.suppressions import AnyReason
from shared.scopes import Scope

router = APIRouter(prefix="/v1/suppressions", tags=["suppressions"], route_class=JsonRoute, dependencies=[key_required])


class Removal(BaseModel):
    """Which suppressions to remove."""

    email: str | None = Field(None, max_length=1000, examples=["ann@example.com"])
    campaign_id: UUID | None = Field(None, description="Only those that this campaign led to.")
    reason: AnyReason | None = None
    since: AwareDatetime | None = Field(None, description="Only those made then or later.")
    dry_run: bool = Field(False, description="Count them, and remove none.")


@router.get("", summary="List suppressed addresses, newest first")
async def list_suppressions(
    project: ProjectDep,
    email: Annotated[str | None, Query(max_length=1000, description="Only this mailbox.")] = None,
    reason: AnyReason | None = None,
    cursor: Annotated[int | None, Query(ge=1, lt=2**63)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Page[SuppressionOut]:
    async with project.read() as connection:
        return await suppressions.list_suppressions(connection, whose(project), Wanted(email, reason, cursor, limit))


@router.get(
    "/export",
    response_class=Response,
    responses={
        200: {
            "content": {"text/csv": {}, "application/x-ndjson": {}, "application/gzip": {}},
            "description": "One suppression a line.",
        }
    },
    summary="Export suppressed addresses, in the order in which they were added",
)
async def export(
    project: ProjectDep,
    reason: AnyReason | None = None,
    file_format: Annotated[Format, Query(alias="format")] = "csv",
    gzip: Annotated[bool, Query(description="Packs the file.")] = False,
) -> StreamingResponse:
    """All of them as a stream. A cell that a spreadsheet would take for a formula begins with an apostrophe."""
    lines = suppression_export.lines(project.api.ledger, project.id, reason, file_format)
    return file_of(lines, "suppressions", file_format, packed=gzip)


@router.post("", response_model=Suppressed, summary="Suppress one address, or many")
async def add(body: SuppressionsIn, project: ProjectDep, once: OnceDep) -> Response:
    """Suppresses all addresses or none: if one is invalid, the error points to it. Campaigns that are being sent leave
    these recipients out from now on."""
    async with project.write() as connection:
        suppressed = await suppressions.add(connection, whose(project), body)
        answer = await once.keep(connection, Answer(200, suppressed))
    return answer.response()


@router.delete(
    "",
    response_model=RemovedSuppressions,
    responses={204: {"description": "This one address is no longer suppressed."}},
    summary="Allow emails to an address again, or to many",
)
async def remove(project: ProjectDep, which: Annotated[Removal, Query()]) -> Response:
    """Give either `email`, which answers 204, or one or more of `campaign_id`, `reason` and `since`, which must all be
    met. To see how many there are, ask with `dry_run` first. People who were erased stay suppressed, but for the one
    whose `email` a key with the scope `operator` gives."""
    matching = Matching(which.campaign_id, which.reason, which.since)
    if which.email is not None and (which.dry_run or matching != Matching()):
        raise InvalidError([{"parameter": "query email", "detail": "stands alone, without other conditions"}])
    may_lift = Scope.OPERATOR in project.key.scopes
    async with project.write() as connection:
        if which.email is not None:
            await suppressions.remove(connection, whose(project), which.email, may_lift=may_lift)
            return Response(status_code=204)
        removed = await suppressions.remove_matching(
            connection, project.id, matching, dry_run=which.dry_run, may_lift=may_lift
        )
    return Answer(200, removed).response()

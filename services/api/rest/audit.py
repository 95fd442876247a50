"""`/v1/audit`: who did what, on what, from where, with what result. For operators."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import AwareDatetime, BaseModel, Field

from services.api.rest.auth import JsonRoute, key_required
from services.api.shapes.audit import AuditOut
from services.api.shapes.common import Page
from services.api.usecases import audit
from services.api.usecases.export_lines import MEDIA, Format
from services.api.web.context import ProjectDep
from shared.ledger.audit import Wanted

router = APIRouter(prefix="/v1/audit", tags=["projects"], route_class=JsonRoute, dependencies=[key_required])


class Which(BaseModel):
    """Which entries."""

    project_id: UUID | None = Field(None, description="Only those of this project.")
    actor: str | None = Field(
        None, max_length=200, pattern=r"^[^\x00-\x1f]*$", description="Only those of this key or user."
    )
    since: AwareDatetime | None = Field(None, description="Only those made then or later.")
    until: AwareDatetime | None = Field(None, description="Only those made before.")

    def wanted(self, below: int | None = None, limit: int = 100) -> Wanted:
        since = None if self.since is None else self.since.timestamp()
        until = None if self.until is None else self.until.timestamp()
        return Wanted(self.project_id, self.actor, since, until, below, limit)


WhichDep = Annotated[Which, Depends()]


@router.get("", summary="List what was done, newest first")
async def list_entries(
    project: ProjectDep,
    which: WhichDep,
    cursor: Annotated[int | None, Query(ge=1, lt=2**63)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Page[AuditOut]:
    async with project.read() as connection:
        return await audit.list_entries(connection, which.wanted(cursor, limit))


@router.get(
    "/export",
    response_class=Response,
    responses={200: {"content": {"text/csv": {}, "application/x-ndjson": {}}, "description": "One entry a line."}},
    summary="Export what was done, newest first",
)
async def export(
    project: ProjectDep,
    which: WhichDep,
    file_format: Annotated[Format, Query(alias="format")] = "csv",
) -> StreamingResponse:
    """All entries as a stream."""
    lines = audit.export(project.api.ledger, which.wanted(), file_format)
    name = {"Content-Disposition": f'attachment; filename="audit.{file_format}"'}
    return StreamingResponse(lines, headers=name, media_type=MEDIA[file_format])

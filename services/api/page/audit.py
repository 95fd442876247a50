"""The audit, for operators: who did what, by project, actor and time."""

from datetime import UTC, datetime
from typing import Annotated
from urllib.parse import urlencode
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, BeforeValidator, Field, NaiveDatetime

from services.api.page import render
from services.api.page.route import PageRoute
from services.api.usecases import audit, tenants
from services.api.web.context import ProjectDep
from shared.ledger.audit import Wanted

PAGE_SIZE = 100

router = APIRouter(prefix="/access/audit", include_in_schema=False, route_class=PageRoute)


def _filled(value: object) -> object:
    """A field of a form that was left empty is absent."""
    return value or None


class AuditQuery(BaseModel):
    project_id: Annotated[UUID | None, BeforeValidator(_filled)] = None
    actor: str = Field("", max_length=200, pattern=r"^[^\x00-\x1f]*$")
    since: Annotated[NaiveDatetime | None, BeforeValidator(_filled)] = None  # UTC, as the page says
    until: Annotated[NaiveDatetime | None, BeforeValidator(_filled)] = None
    cursor: int | None = Field(None, ge=1, lt=2**63)

    def wanted(self) -> Wanted:
        since, until = _seconds(self.since), _seconds(self.until)
        return Wanted(self.project_id, self.actor.strip() or None, since, until, self.cursor, PAGE_SIZE)

    def filters(self) -> dict[str, str]:
        """As fields of the form and the address."""
        return {name: str(value) for name, value in self.model_dump(mode="json", exclude={"cursor"}).items() if value}


@router.get("")
async def show(request: Request, project: ProjectDep, query: Annotated[AuditQuery, Query()]) -> Response:
    async with project.read() as connection:
        found = await audit.list_entries(connection, query.wanted())
        projects = await tenants.list_projects(connection)
    filters = query.filters()
    following = urlencode({**filters, "cursor": found.next_cursor}) if found.next_cursor else ""
    return render.page(
        request,
        "audit.html",
        section="access",
        tab="audit",
        entries=found.data,
        projects=projects,
        names={one.id: one.name for one in projects},
        filters=filters,
        beginning=f"/access/audit?{urlencode(filters)}" if query.cursor else "",
        following=f"/access/audit?{following}" if following else "",
    )


def _seconds(moment: datetime | None) -> float | None:
    """Seconds since 1970 of a moment in UTC."""
    return None if moment is None else moment.replace(tzinfo=UTC).timestamp()

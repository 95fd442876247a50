"""Who is signed in, and from which domains the project may send."""

from fastapi import APIRouter, Request, Response

from services.api.page import render
from services.api.page.forms import text
from services.api.page.route import FormDep, PageRoute, SessionDep, see_other
from services.api.usecases import tenants
from services.api.web.context import ProjectDep

router = APIRouter(prefix="/access", include_in_schema=False, route_class=PageRoute)


@router.get("")
async def show(request: Request, project: ProjectDep, visitor: SessionDep, ended: bool = False) -> Response:
    async with project.read() as connection:
        domains = await tenants.list_domains(connection, project.tenant)
        sessions = await tenants.list_sessions(connection, project.tenant)
    return render.page(
        request,
        "access.html",
        section="access",
        domains=domains,
        sessions=sessions,
        own=visitor.id,
        notice="The session was ended." if ended else "",
    )


@router.post("/end-session")
async def end_session(form: FormDep, project: ProjectDep) -> Response:
    async with project.write() as connection:
        await tenants.end_session(connection, project.tenant, text(form, "session_id"))
    return see_other("/access?ended=true")

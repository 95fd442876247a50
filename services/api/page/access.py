"""Who is signed in, and from which domains the project may send."""

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from services.api.page import render
from services.api.page.forms import text, validated
from services.api.page.route import FormDep, PageRoute, SessionDep, see_other
from services.api.shapes.tenants import DomainIn, DomainName
from services.api.usecases import tenants
from services.api.usecases.errors import NotFoundError, RefusedError
from services.api.web.context import Project, ProjectDep
from services.api.web.domain_checks import checks_of
from services.api.web.problems import problem_of
from shared.ledger import domains
from shared.scopes import Scope

NOTICES = {
    "ended": "The session was ended.",
    "added": "The domain was added.",
    "removed": "The domain was removed.",
}

router = APIRouter(prefix="/access", include_in_schema=False, route_class=PageRoute)


@router.get("")
async def show(request: Request, project: ProjectDep, visitor: SessionDep, told: str = "") -> Response:
    return await _shown(request, project, visitor.id, NOTICES.get(told, ""))


@router.post("/end-session")
async def end_session(form: FormDep, project: ProjectDep) -> Response:
    async with project.write() as connection:
        await tenants.end_session(connection, project.tenant, text(form, "session_id"))
    return see_other("/access?told=ended")


@router.post("/domains")
async def add_domain(request: Request, form: FormDep, project: ProjectDep, visitor: SessionDep) -> Response:
    try:
        given = {"name": text(form, "name").strip(), "project_id": text(form, "project_id") or None}
        wanted = validated(DomainIn, given)
        async with project.write() as connection:
            await tenants.add_domain(connection, project.tenant, wanted)
    except RefusedError as refusal:
        return await _shown(request, project, visitor.id, refusal=refusal)
    return see_other("/access?told=added")


@router.post("/domains/remove")
async def remove_domain(form: FormDep, project: ProjectDep) -> Response:
    async with project.write() as connection:
        await tenants.remove_domain(connection, project.tenant, text(form, "name"))
    return see_other("/access?told=removed")


@router.get("/domains/{name}")
async def check_domain(name: Annotated[DomainName, Path()], request: Request, project: ProjectDep) -> Response:
    """What receivers find about a domain, at most some minutes old."""
    async with project.read() as connection:
        owner = await domains.owner(connection, name)
    is_operator = Scope.OPERATOR in project.key.scopes
    if owner is None or (owner.project_id != project.id and not is_operator):
        raise NotFoundError("such domain")
    checks = checks_of(request)
    kept = checks.last(name, name)
    findings = kept.findings if kept else await checks.check(project.api, name, name)
    return render.page(request, "domain.html", section="access", name=name, findings=findings)


async def _shown(
    request: Request, project: Project, own: str, notice: str = "", refusal: RefusedError | None = None
) -> Response:
    is_operator = Scope.OPERATOR in project.key.scopes
    async with project.read() as connection:
        found = await tenants.list_domains(connection, project.tenant)
        sessions = await tenants.list_sessions(connection, project.tenant)
        projects = await tenants.list_projects(connection) if is_operator else []
    problem = problem_of(refusal) if refusal else None
    checks = checks_of(request)
    return render.page(
        request,
        "access.html",
        status_code=problem.status if problem else 200,
        section="access",
        tab="access",
        domains=[(one, checks.last(one.name, one.name)) for one in found],
        sessions=sessions,
        projects=[one for one in projects if one.closed_at is None],
        own=own,
        own_project=project.id,
        notice=notice,
        problem=problem.document if problem else None,
    )

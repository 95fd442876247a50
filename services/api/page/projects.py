"""Projects: created, renamed and closed by operators, who also say how long results are kept."""

from uuid import UUID

from fastapi import APIRouter, Request, Response

from services.api.page import render
from services.api.page.forms import text, validated
from services.api.page.route import FormDep, PageRoute, see_other
from services.api.shapes.common import Body
from services.api.shapes.tenants import ProjectIn, ProjectPatch
from services.api.usecases import tenants
from services.api.usecases.errors import RefusedError
from services.api.web.context import Project, ProjectDep
from services.api.web.problems import problem_of

NOTICES = {
    "created": "The project was created.",
    "renamed": "The project was renamed.",
    "kept": "The retention was set.",
    "closed": "It is closed.",
}

router = APIRouter(prefix="/access/projects", include_in_schema=False, route_class=PageRoute)


class WhichProject(Body):
    project_id: UUID


@router.get("")
async def show(request: Request, project: ProjectDep, told: str = "") -> Response:
    return await _shown(request, project, NOTICES.get(told, ""))


@router.post("")
async def create(request: Request, form: FormDep, project: ProjectDep) -> Response:
    try:
        wanted = validated(ProjectIn, {"name": text(form, "name").strip()})
        async with project.write() as connection:
            await tenants.create_project(connection, wanted.name)
    except RefusedError as refusal:
        return await _shown(request, project, refusal=refusal)
    return see_other("/access/projects?told=created")


@router.post("/rename")
async def rename(request: Request, form: FormDep, project: ProjectDep) -> Response:
    try:
        which = validated(WhichProject, {"project_id": text(form, "project_id")})
        patch = validated(ProjectPatch, {"name": text(form, "name").strip()})
        async with project.write() as connection:
            await tenants.change_project(connection, which.project_id, patch)
    except RefusedError as refusal:
        return await _shown(request, project, refusal=refusal)
    return see_other("/access/projects?told=renamed")


@router.post("/retention")
async def keep(request: Request, form: FormDep, project: ProjectDep) -> Response:
    """Sets for how many days results are kept; empty: the setting decides."""
    try:
        which = validated(WhichProject, {"project_id": text(form, "project_id")})
        days = text(form, "retention_days").strip()
        patch = validated(ProjectPatch, {"retention_days": days or None})
        async with project.write() as connection:
            await tenants.change_project(connection, which.project_id, patch)
    except RefusedError as refusal:
        return await _shown(request, project, refusal=refusal)
    return see_other("/access/projects?told=kept")


@router.post("/close")
async def close(request: Request, form: FormDep, project: ProjectDep) -> Response:
    try:
        which = validated(WhichProject, {"project_id": text(form, "project_id")})
        async with project.write() as connection:
            await tenants.close_project(connection, which.project_id)
    except RefusedError as refusal:
        return await _shown(request, project, refusal=refusal)
    return see_other("/access/projects?told=closed")


async def _shown(request: Request, project: Project, notice: str = "", refusal: RefusedError | None = None) -> Response:
    async with project.read() as connection:
        projects = await tenants.list_projects(connection)
    problem = problem_of(refusal) if refusal else None
    return render.page(
        request,
        "projects.html",
        status_code=problem.status if problem else 200,
        section="access",
        tab="projects",
        projects=projects,
        default_days=project.api.settings.retention_days,
        notice=notice,
        problem=problem.document if problem else None,
    )

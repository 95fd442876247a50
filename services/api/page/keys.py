"""Keys: made, rotated and revoked by operators."""

from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request, Response

from services.api.page import render
from services.api.page.forms import text, validated
from services.api.page.route import FormDep, PageRoute, see_other
from services.api.shapes.common import Body
from services.api.shapes.tenants import KeyIn, MadeKeyOut, RotateIn
from services.api.usecases import tenants
from services.api.usecases.errors import RefusedError
from services.api.web.context import Project, ProjectDep
from services.api.web.problems import problem_of
from shared.scopes import Scope

router = APIRouter(prefix="/access/keys", include_in_schema=False, route_class=PageRoute)


class WhichKey(Body):
    key_id: UUID


@router.get("")
async def show(request: Request, project: ProjectDep, revoked: bool = False) -> Response:
    return await _shown(request, project, notice="The key was revoked." if revoked else "")


@router.post("")
async def create(request: Request, form: FormDep, project: ProjectDep) -> Response:
    """Shows the key in the answer itself, the only place where it ever is."""
    given: dict[str, Any] = {
        "name": text(form, "name").strip(),
        "project_id": text(form, "project_id") or None,
        "scopes": [one for one in form.getlist("scopes") if isinstance(one, str)] or None,
        "expires_days": text(form, "expires_days").strip() or None,
        "domains": text(form, "domains").replace(",", " ").split() or None,
    }
    try:
        wanted = validated(KeyIn, given)
        async with project.write() as connection:
            made = await tenants.create_key(connection, project.tenant, wanted)
    except RefusedError as refusal:
        return await _shown(request, project, refusal=refusal)
    return await _shown(request, project, made)


@router.post("/rotate")
async def rotate(request: Request, form: FormDep, project: ProjectDep) -> Response:
    try:
        key = validated(WhichKey, {"key_id": text(form, "key_id")})
        async with project.write() as connection:
            made = await tenants.rotate_key(connection, key.key_id, RotateIn().overlap_hours)
    except RefusedError as refusal:
        return await _shown(request, project, refusal=refusal)
    return await _shown(request, project, made)


@router.post("/revoke")
async def revoke(request: Request, form: FormDep, project: ProjectDep) -> Response:
    try:
        key = validated(WhichKey, {"key_id": text(form, "key_id")})
        async with project.write() as connection:
            await tenants.revoke_key(connection, key.key_id)
    except RefusedError as refusal:
        return await _shown(request, project, refusal=refusal)
    return see_other("/access/keys?revoked=true")


async def _shown(
    request: Request,
    project: Project,
    made: MadeKeyOut | None = None,
    *,
    notice: str = "",
    refusal: RefusedError | None = None,
) -> Response:
    async with project.read() as connection:
        keys = await tenants.list_keys(connection)
        projects = await tenants.list_projects(connection)
    problem = problem_of(refusal) if refusal else None
    return render.page(
        request,
        "keys.html",
        status_code=problem.status if problem else 200,
        section="access",
        tab="keys",
        keys=[one for one in keys if one.revoked_at is None],
        revoked=[one for one in keys if one.revoked_at is not None],
        projects=[one for one in projects if one.closed_at is None],
        own_project=project.id,
        scopes=list(Scope),
        made=made,
        notice=notice,
        problem=problem.document if problem else None,
    )

"""Addresses nobody writes to any more: look, add, remove."""

from typing import Annotated

import orjson
from fastapi import APIRouter, Query, Request, Response

from services.api import suppressions
from services.api.context import Api, ApiDep, ProjectDep
from services.api.page import render
from services.api.page.forms import each_time, text, validated
from services.api.page.route import FormDep, PageRoute, see_other
from services.api.page.words import plural
from services.api.problems import Problem
from services.api.shapes import Page
from services.api.suppressions import SuppressionOut, SuppressionsIn

PAGE_SIZE = 50

router = APIRouter(prefix="/suppressions", include_in_schema=False, route_class=PageRoute)


@router.get("")
async def show(
    request: Request,
    api: ApiDep,
    project_id: ProjectDep,
    email: Annotated[str, Query(max_length=1000)] = "",
    cursor: Annotated[int | None, Query(ge=1, lt=2**63)] = None,
    added: Annotated[int | None, Query(ge=0)] = None,
    removed: bool = False,
) -> Response:
    notice = "The address may be written to again." if removed else ""
    if added is not None:
        notice = f"{plural(added, 'address', 'addresses')} added." if added else "These were suppressed before."
    return await _shown(request, api, project_id, email=email.strip(), cursor=cursor, notice=notice)


@router.post("")
async def add(request: Request, form: FormDep, api: ApiDep, project_id: ProjectDep) -> Response:
    emails = text(form, "emails").replace(",", " ").replace(";", " ").split()
    detail = text(form, "detail").strip() or None
    try:
        body = validated(SuppressionsIn, {"suppressions": [{"email": email, "detail": detail} for email in emails]})
        answer = await suppressions.add(body, api, project_id, each_time(api, project_id))
    except Problem as problem:
        return await _shown(request, api, project_id, problem=problem, given=text(form, "emails"))
    return see_other(f"/suppressions?added={orjson.loads(answer.body)['added']}")


@router.post("/remove")
async def remove(request: Request, form: FormDep, api: ApiDep, project_id: ProjectDep) -> Response:
    try:
        await suppressions.remove(api, project_id, text(form, "email"))
    except Problem as problem:
        return await _shown(request, api, project_id, problem=problem)
    return see_other("/suppressions?removed=true")


async def _shown(
    request: Request,
    api: Api,
    project_id: ProjectDep,
    *,
    email: str = "",
    cursor: int | None = None,
    notice: str = "",
    problem: Problem | None = None,
    given: str = "",
) -> Response:
    try:
        page = await suppressions.list_suppressions(api, project_id, email or None, None, cursor, PAGE_SIZE)
    except Problem as wrong_address:
        problem = problem or wrong_address
        page = Page[SuppressionOut](data=[], next_cursor=None)
    return render.page(
        request,
        "suppressions.html",
        status_code=problem.status_code if problem else 200,
        section="suppressions",
        suppressions=page.data,
        email=email,
        given=given,
        following=f"/suppressions?cursor={page.next_cursor}" if page.next_cursor else "",
        beginning="/suppressions" if cursor or email else "",
        notice=notice,
        problem=problem.document if problem else None,
    )

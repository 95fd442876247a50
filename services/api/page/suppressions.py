"""Suppressions: list, add, remove."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field, NaiveDatetime

from services.api.page import render
from services.api.page.forms import text, validated
from services.api.page.route import FormDep, PageRoute, see_other
from services.api.page.words import plural
from services.api.shapes.common import Body, Page
from services.api.shapes.suppressions import SuppressionOut, SuppressionsIn
from services.api.usecases import erasure, suppressions
from services.api.usecases.errors import RefusedError
from services.api.usecases.suppressions import Matching, Wanted
from services.api.web.context import Project, ProjectDep, whose
from services.api.web.problems import problem_of
from shared.ledger.suppressions import Reason
from shared.scopes import Scope

PAGE_SIZE = 50

router = APIRouter(prefix="/suppressions", include_in_schema=False, route_class=PageRoute)


class ListQuery(BaseModel):
    email: str = Field("", max_length=1000)
    cursor: int | None = Field(None, ge=1, lt=2**63)
    added: int | None = Field(None, ge=0)
    removed: bool = False
    gone: int | None = Field(None, ge=0)
    erased: bool = False


class MatchingForm(Body):
    """Which suppressions to remove at once."""

    campaign_id: UUID | None = None
    reason: Reason | None = None
    since: NaiveDatetime | None = None  # UTC, as the page says


@dataclass(frozen=True, slots=True)
class View:
    """What the page shows beside the list."""

    email: str = ""  # only this address
    cursor: int | None = None
    notice: str = ""
    given: str = ""  # what was typed into the form that was refused
    matching: int | None = None  # how many suppressions meet the conditions below
    conditions: Mapping[str, str] = field(default_factory=dict)


@router.get("")
async def show(request: Request, project: ProjectDep, query: Annotated[ListQuery, Query()]) -> Response:
    notice = "Emails to this address are allowed again." if query.removed else ""
    if query.erased:
        notice = "The person is being erased, and gets no more emails. It is done when no row names the person."
    if query.added is not None:
        added = f"{plural(query.added, 'address', 'addresses')} added."
        notice = added if query.added else "These were suppressed already."
    if query.gone is not None:
        notice = f"{plural(query.gone, 'address', 'addresses')} removed."
    return await _shown(request, project, View(query.email.strip(), query.cursor, notice))


@router.post("")
async def add(request: Request, form: FormDep, project: ProjectDep) -> Response:
    emails = text(form, "emails").replace(",", " ").replace(";", " ").split()
    detail = text(form, "detail").strip() or None
    try:
        body = validated(SuppressionsIn, {"suppressions": [{"email": email, "detail": detail} for email in emails]})
        async with project.write() as connection:
            suppressed = await suppressions.add(connection, whose(project), body)
    except RefusedError as refusal:
        return await _shown(request, project, View(given=text(form, "emails")), refusal)
    return see_other(f"/suppressions?added={suppressed.added}")


@router.post("/erase")
async def erase(request: Request, form: FormDep, project: ProjectDep) -> Response:
    try:
        person = erasure.whom(text(form, "email"), project.hash_roots)
        await erasure.erase(project.api.ledger, project.id, person)
    except RefusedError as refusal:
        return await _shown(request, project, View(), refusal)
    return see_other("/suppressions?erased=true")


@router.post("/remove")
async def remove(request: Request, form: FormDep, project: ProjectDep) -> Response:
    try:
        async with project.write() as connection:
            may_lift = Scope.OPERATOR in project.key.scopes
            await suppressions.remove(connection, whose(project), text(form, "email"), may_lift=may_lift)
    except RefusedError as refusal:
        return await _shown(request, project, View(), refusal)
    return see_other("/suppressions?removed=true")


@router.post("/remove-matching")
async def remove_matching(request: Request, form: FormDep, project: ProjectDep) -> Response:
    """The first press counts; the second, which carries that number, removes."""
    given = {name: text(form, name).strip() for name in ("campaign_id", "reason", "since")}
    try:
        wanted = validated(MatchingForm, {name: value for name, value in given.items() if value})
        since = wanted.since and wanted.since.replace(tzinfo=UTC)
        matching = Matching(wanted.campaign_id, wanted.reason, since)
        sure = bool(text(form, "sure"))
        async with project.write() as connection:
            found = await suppressions.remove_matching(connection, project.id, matching, dry_run=not sure)
    except RefusedError as refusal:
        return await _shown(request, project, View(), refusal)
    if sure:
        return see_other(f"/suppressions?gone={found.removed}")
    return await _shown(request, project, View(matching=found.matching, conditions=given))


async def _shown(request: Request, project: Project, view: View, refusal: RefusedError | None = None) -> Response:
    try:
        async with project.read() as connection:
            wanted = Wanted(email=view.email or None, below=view.cursor, limit=PAGE_SIZE)
            page = await suppressions.list_suppressions(connection, whose(project), wanted)
    except RefusedError as wrong_address:
        refusal = refusal or wrong_address
        page = Page[SuppressionOut](data=[], next_cursor=None)
    problem = problem_of(refusal) if refusal else None
    return render.page(
        request,
        "suppressions.html",
        status_code=problem.status if problem else 200,
        section="suppressions",
        suppressions=page.data,
        email=view.email,
        given=view.given,
        matching=view.matching,
        conditions=view.conditions,
        following=f"/suppressions?cursor={page.next_cursor}" if page.next_cursor else "",
        beginning="/suppressions" if view.cursor or view.email else "",
        notice=view.notice,
        problem=problem.document if problem else None,
    )

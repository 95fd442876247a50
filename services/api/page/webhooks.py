"""Webhooks: made, watched, tested, and helped when they fail."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field, NaiveDatetime

from services.api.page import render
from services.api.page.forms import text, validated
from services.api.page.route import FormDep, PageRoute, see_other
from services.api.page.words import plural
from services.api.shapes.common import Body
from services.api.shapes.webhooks import ReplayIn, WebhookChange, WebhookIn
from services.api.usecases import events, webhooks
from services.api.usecases.errors import RefusedError
from services.api.web.context import Project, ProjectDep
from services.api.web.problems import problem_of
from shared.ledger.facts import FactType

PAGE_SIZE = 50
NOTICES = {
    "paused": "Nothing is delivered until you resume it.",
    "resumed": "It is delivered to again, from where it was.",
    "tested": "A test event is on its way, behind those that wait. Reload the page to see what came of it.",
    "replayed": "Events since that moment are delivered again.",
    "removed": "The webhook is deleted.",
}

router = APIRouter(prefix="/webhooks", include_in_schema=False, route_class=PageRoute)


class Notice(BaseModel):
    done: Literal["", "paused", "resumed", "tested", "replayed", "removed"] = ""
    again: int | None = Field(None, ge=0)


class WebhookQuery(Notice):
    cursor: int = Field(0, ge=0, lt=2**62)


class Since(Body):
    since: NaiveDatetime  # UTC, as the page says


@dataclass(frozen=True, slots=True)
class View:
    """What the page of one webhook shows beside it."""

    secret: str = ""  # just made
    notice: str = ""
    after: int = 0  # events that were set aside are listed after this position


@router.get("")
async def show(request: Request, project: ProjectDep, query: Annotated[Notice, Query()]) -> Response:
    return await _list(request, project, notice=NOTICES.get(query.done, ""))


@router.post("")
async def create(request: Request, form: FormDep, project: ProjectDep) -> Response:
    """Shows the secret in the answer itself, the only place where it ever is."""
    given = {"url": text(form, "url").strip(), "types": text(form, "types").replace(",", " ").split()}
    settings = project.api.settings
    try:
        wanted = validated(WebhookIn, given)
        async with project.write() as connection:
            made = await webhooks.create(
                connection,
                project.tenant,
                wanted,
                most=settings.webhooks_per_project,
                needs_https=settings.environment == "production",
            )
    except RefusedError as refusal:
        return await _list(request, project, given=given, refusal=refusal)
    return await _one(request, project, made.id, View(made.secret))


@router.get("/{webhook_id}")
async def show_one(
    request: Request, webhook_id: UUID, project: ProjectDep, query: Annotated[WebhookQuery, Query()]
) -> Response:
    notice = NOTICES.get(query.done, "")
    if query.again is not None:
        notice = f"{plural(query.again, 'event')} that it refused will be delivered again."
    return await _one(request, project, webhook_id, View(notice=notice, after=query.cursor))


@router.post("/{webhook_id}/rotate")
async def rotate(request: Request, webhook_id: UUID, _form: FormDep, project: ProjectDep) -> Response:
    async with project.write() as connection:
        made = await webhooks.rotate(connection, project.id, webhook_id)
    return await _one(request, project, webhook_id, View(made.secret))


@router.post("/{webhook_id}/test")
async def test(webhook_id: UUID, _form: FormDep, project: ProjectDep) -> Response:
    async with project.write() as connection:
        await webhooks.test(connection, project.id, webhook_id)
    return see_other(f"/webhooks/{webhook_id}?done=tested")


@router.post("/{webhook_id}/pause")
async def pause(webhook_id: UUID, _form: FormDep, project: ProjectDep) -> Response:
    await _change(project, webhook_id, "paused")
    return see_other(f"/webhooks/{webhook_id}?done=paused")


@router.post("/{webhook_id}/resume")
async def resume(webhook_id: UUID, _form: FormDep, project: ProjectDep) -> Response:
    await _change(project, webhook_id, "active")
    return see_other(f"/webhooks/{webhook_id}?done=resumed")


@router.post("/{webhook_id}/replay")
async def replay(request: Request, webhook_id: UUID, form: FormDep, project: ProjectDep) -> Response:
    """Without a moment: the events that it refused."""
    given = text(form, "since").strip()
    try:
        wanted = ReplayIn(set_aside=True)
        if given:
            since = validated(Since, {"since": given}).since.replace(tzinfo=UTC)
            wanted = ReplayIn(since=since)
        async with project.write() as connection:
            done = await webhooks.replay(connection, project.id, webhook_id, wanted)
    except RefusedError as refusal:
        return await _one(request, project, webhook_id, refusal=refusal)
    told = "done=replayed" if done.events is None else f"again={done.events}"
    return see_other(f"/webhooks/{webhook_id}?{told}")


@router.post("/{webhook_id}/delete")
async def delete(webhook_id: UUID, _form: FormDep, project: ProjectDep) -> Response:
    async with project.write() as connection:
        await webhooks.remove(connection, project.id, webhook_id)
    return see_other("/webhooks?done=removed")


async def _change(project: Project, webhook_id: UUID, state: Literal["active", "paused"]) -> None:
    async with project.write() as connection:
        await webhooks.change(connection, project.id, webhook_id, WebhookChange(state=state), needs_https=False)


async def _list(
    request: Request,
    project: Project,
    *,
    notice: str = "",
    given: Mapping[str, object] | None = None,
    refusal: RefusedError | None = None,
) -> Response:
    async with project.read() as connection:
        found = await webhooks.list_webhooks(connection, project.id)
        stream = await events.show(connection, project.id)
    problem = problem_of(refusal) if refusal else None
    return render.page(
        request,
        "webhooks.html",
        status_code=problem.status if problem else 200,
        section="webhooks",
        webhooks=found.data,
        stream=stream,
        given=given or {"url": "", "types": []},
        notice=notice,
        problem=problem.document if problem else None,
    )


async def _one(
    request: Request,
    project: Project,
    webhook_id: UUID,
    view: View = View(),
    refusal: RefusedError | None = None,
) -> Response:
    async with project.read() as connection:
        found = await webhooks.show(connection, project.id, webhook_id)
        aside = await webhooks.list_set_aside(connection, project.id, webhook_id, view.after, PAGE_SIZE)
    problem = problem_of(refusal) if refusal else None
    return render.page(
        request,
        "webhook.html",
        status_code=problem.status if problem else 200,
        section="webhooks",
        webhook=found,
        aside=aside.data,
        beginning=f"/webhooks/{webhook_id}" if view.after else "",
        following=f"/webhooks/{webhook_id}?cursor={aside.next_cursor}" if aside.next_cursor else "",
        secret=view.secret,
        all_types=len(FactType),
        notice=view.notice,
        problem=problem.document if problem else None,
    )

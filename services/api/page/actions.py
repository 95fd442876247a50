"""The buttons of a campaign: each is the API's own action; what it refuses is told on the campaign's page."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated
from urllib.parse import urlencode
from uuid import UUID

import orjson
from fastapi import APIRouter, Path, Request, Response
from sqlalchemy import select
from sqlmodel import col

from services.api import actions, campaigns
from services.api.actions import ReopenIn, ResolveIn, SendIn, TestIn
from services.api.context import Api, ApiDep, ProjectDep
from services.api.idempotency import Once
from services.api.page import campaign
from services.api.page.forms import each_time, text, validated
from services.api.page.route import FormDep, PageRoute, see_other
from services.api.problems import Problem
from shared.ledger.models import Recipient

router = APIRouter(prefix="/campaigns/{campaign_id}", include_in_schema=False, route_class=PageRoute)

Action = Callable[[UUID, Api, UUID, Once], Awaitable[Response]]
SIMPLE: dict[str, tuple[Action, str]] = {
    "pause": (actions.pause, "paused"),
    "resume": (actions.resume, "resumed"),
    "cancel": (actions.cancel, "cancelled"),
}


@router.post("/send")
async def send(request: Request, campaign_id: UUID, form: FormDep, api: ApiDep, project_id: ProjectDep) -> Response:
    at = text(form, "scheduled_at")

    async def act() -> Response:
        body = validated(SendIn, {"scheduled_at": _utc(at)} if at else {})
        return await actions.send(campaign_id, api, project_id, each_time(api, project_id), body)

    return await _acted(request, api, project_id, campaign_id, act, "scheduled" if at else "sent")


@router.post("/retry-failed")
async def retry_failed(request: Request, campaign_id: UUID, api: ApiDep, project_id: ProjectDep) -> Response:
    async def act() -> Response:
        return await actions.retry_failed(campaign_id, api, project_id, each_time(api, project_id), ReopenIn())

    return await _acted(request, api, project_id, campaign_id, act, "retrying")


@router.post("/resolve-unknown")
async def resolve_unknown(
    request: Request, campaign_id: UUID, form: FormDep, api: ApiDep, project_id: ProjectDep
) -> Response:
    async def act() -> Response:
        body = validated(ResolveIn, {"as": text(form, "as")})
        return await actions.resolve_unknown(campaign_id, api, project_id, each_time(api, project_id), body)

    return await _acted(request, api, project_id, campaign_id, act, "resolved")


@router.post("/test")
async def test(request: Request, campaign_id: UUID, form: FormDep, api: ApiDep, project_id: ProjectDep) -> Response:
    """With the merge fields of the campaign's first recipient, so that the test reads as an email will."""

    async def act() -> Response:
        data = await _first_fields(api, campaign_id)
        emails = text(form, "emails").replace(",", " ").replace(";", " ").split()
        body = validated(TestIn, {"recipients": [{"email": email, "data": data} for email in emails]})
        return await actions.test(campaign_id, request, api, project_id, each_time(api, project_id), body)

    try:
        answer = await act()
    except Problem as problem:
        return await _refused(request, api, project_id, campaign_id, problem)
    query = urlencode({"told": "tested", "test": orjson.loads(answer.body)["id"]})
    return see_other(f"/campaigns/{campaign_id}?{query}", answer.background)


@router.post("/delete")
async def delete(request: Request, campaign_id: UUID, api: ApiDep, project_id: ProjectDep) -> Response:
    try:
        await campaigns.remove(campaign_id, api, project_id)
    except Problem as problem:
        return await _refused(request, api, project_id, campaign_id, problem)
    return see_other("/?told=deleted")


@router.post("/{action}")
async def simple(
    request: Request,
    campaign_id: UUID,
    action: Annotated[str, Path(pattern=f"^({'|'.join(SIMPLE)})$")],
    api: ApiDep,
    project_id: ProjectDep,
) -> Response:
    do, told = SIMPLE[action]

    async def act() -> Response:
        return await do(campaign_id, api, project_id, each_time(api, project_id))

    return await _acted(request, api, project_id, campaign_id, act, told)


async def _acted(
    request: Request,
    api: Api,
    project_id: UUID,
    campaign_id: UUID,
    act: Callable[[], Awaitable[Response]],
    told: str,
) -> Response:
    """Acts, then shows the campaign; the dispatcher is told after the answer has left."""
    try:
        answer = await act()
    except Problem as problem:
        return await _refused(request, api, project_id, campaign_id, problem)
    return see_other(f"/campaigns/{campaign_id}?told={told}", answer.background)


async def _refused(request: Request, api: Api, project_id: UUID, campaign_id: UUID, problem: Problem) -> Response:
    return await campaign.shown(request, api, project_id, campaign_id, problem=problem)


def _utc(given: str) -> str:
    """What `datetime-local` gives has no zone: the page asks for UTC."""
    try:
        at = datetime.fromisoformat(given)
    except ValueError:
        return given
    return given if at.tzinfo else f"{given}Z"


async def _first_fields(api: Api, campaign_id: UUID) -> object:
    async with api.ledger.read() as connection:
        data = await connection.scalar(
            select(col(Recipient.data))
            .where(col(Recipient.campaign_id) == campaign_id)
            .order_by(col(Recipient.id))
            .limit(1)
        )
    return orjson.loads(data) if data else {}

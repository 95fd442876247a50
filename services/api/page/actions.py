"""The buttons of a campaign. If an action is refused, the campaign's page says why."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

import orjson
from fastapi import APIRouter, Depends, Path, Request, Response
from sqlalchemy.ext.asyncio import AsyncConnection

from services.api.page import campaign
from services.api.page.campaign import Told
from services.api.page.forms import text, validated
from services.api.page.route import FormDep, PageRoute, see_other
from services.api.shapes.campaigns import CampaignSending, ResolveIn, ResumeIn, SendIn, TestIn
from services.api.usecases import actions, campaigns, recipients
from services.api.usecases.actions import (
    RESEND_UNKNOWN,
    RESOLVE_AS_SENT,
    RETRY_FAILED,
    Accepted,
    Deadline,
    Reopening,
    SendSettings,
)
from services.api.usecases.campaign_row import CampaignRef
from services.api.usecases.errors import RefusedError
from services.api.web.context import CampaignDep, ProjectDep
from services.api.web.domain_checks import checks_of

router = APIRouter(prefix="/campaigns/{campaign_id}", include_in_schema=False, route_class=PageRoute)

SIMPLE: Mapping[str, tuple[Callable[[AsyncConnection, CampaignRef], Awaitable[Accepted]], str]] = {
    "pause": (actions.pause, "paused"),
    "cancel": (actions.cancel, "cancelled"),
}


@dataclass(frozen=True)
class Pressed:
    """The action of a campaign whose button was pressed."""

    request: Request
    campaign: CampaignDep
    project: ProjectDep

    @property
    def deliver_within_seconds(self) -> float:
        return self.project.api.settings.deliver_within_seconds

    async def answer(self, act: Callable[[], Awaitable[Accepted]], told: str) -> Response:
        """Acts, then shows the campaign with the notice `told`, or why it was refused."""
        try:
            accepted = await act()
        except RefusedError as refusal:
            return await self.refused(refusal)
        if isinstance(accepted.summary, CampaignSending) and accepted.summary.warnings:
            told += "-warned"
        test = f"&test={accepted.summary.id}" if accepted.summary.id != self.campaign.id else ""
        return see_other(f"/campaigns/{self.campaign.id}?told={told}{test}", await self.project.announce(accepted))

    async def refused(self, refusal: RefusedError) -> Response:
        return await campaign.shown(self.request, self.project, self.campaign, Told(refusal=refusal))

    async def reopen(self, wanted: Reopening) -> Accepted:
        deadline = Deadline(None, self.deliver_within_seconds)
        async with self.project.write() as connection:
            return await actions.reopen(connection, self.campaign, wanted, deadline)


PressedDep = Annotated[Pressed, Depends()]


@router.post("/send")
async def send(pressed: PressedDep, form: FormDep) -> Response:
    at = text(form, "scheduled_at")

    async def act() -> Accepted:
        body = validated(SendIn, {"scheduled_at": _utc(at)} if at else {})
        api = pressed.project.api
        check = checks_of(pressed.request).for_sending(api)
        settings = SendSettings(pressed.deliver_within_seconds, api.settings.groups, check)
        return await actions.send(api.ledger, pressed.campaign, body, settings)

    return await pressed.answer(act, "scheduled" if at else "sent")


@router.post("/resume")
async def resume(pressed: PressedDep, form: FormDep) -> Response:
    async def act() -> Accepted:
        body = validated(ResumeIn, {"refused": text(form, "refused") or None})
        async with pressed.project.write() as connection:
            return await actions.resume(connection, pressed.campaign, body.refused)

    return await pressed.answer(act, "resumed")


@router.post("/retry-failed")
async def retry_failed(pressed: PressedDep) -> Response:
    return await pressed.answer(lambda: pressed.reopen(RETRY_FAILED), "retrying")


@router.post("/resolve-unknown")
async def resolve_unknown(pressed: PressedDep, form: FormDep) -> Response:
    async def act() -> Accepted:
        body = validated(ResolveIn, {"as": text(form, "as")})
        return await pressed.reopen(RESOLVE_AS_SENT if body.resolve_as == "sent" else RESEND_UNKNOWN)

    return await pressed.answer(act, "resolved")


@router.post("/test")
async def test(pressed: PressedDep, form: FormDep) -> Response:
    """Uses the fields of the campaign's first recipient, so that the test reads like a real email."""
    emails = text(form, "emails").replace(",", " ").replace(";", " ").split()

    async def act() -> Accepted:
        async with pressed.project.read() as connection:
            first = await recipients.first(connection, pressed.campaign)
        fields = orjson.loads(first.data) if first and first.data else {}
        body = validated(TestIn, {"recipients": [{"email": email, "data": fields} for email in emails]})
        ledger, within = pressed.project.api.ledger, pressed.deliver_within_seconds
        return await actions.send_test(ledger, pressed.campaign, body.recipients, within)

    return await pressed.answer(act, "tested")


@router.post("/delete")
async def delete(pressed: PressedDep) -> Response:
    try:
        await campaigns.remove(pressed.project.api.ledger, pressed.campaign)
    except RefusedError as refusal:
        return await pressed.refused(refusal)
    return see_other("/?told=deleted")


@router.post("/{action}")
async def simple(pressed: PressedDep, action: Annotated[str, Path(pattern=f"^({'|'.join(SIMPLE)})$")]) -> Response:
    do, told = SIMPLE[action]

    async def act() -> Accepted:
        async with pressed.project.write() as connection:
            return await do(connection, pressed.campaign)

    return await pressed.answer(act, told)


def _utc(given: str) -> str:
    """`datetime-local` gives a time without a zone. The page asks for UTC."""
    try:
        at = datetime.fromisoformat(given)
    except ValueError:
        return given
    return given if at.tzinfo else f"{given}Z"

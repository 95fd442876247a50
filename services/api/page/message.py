"""The message: the email to one person as a mail program shows it, in a frame where nothing runs, and its source."""

import asyncio
import re
from typing import Annotated, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel

from services.api.page import render
from services.api.page.route import HEADERS, PageRoute
from services.api.shapes.previews import PreviewIn
from services.api.usecases import preview, recipients, summaries
from services.api.usecases.errors import InvalidError
from services.api.usecases.preview import Preview
from services.api.usecases.recipients import Wanted
from services.api.web.context import CampaignDep, ProjectDep
from services.api.web.problems import problem_of

SOURCE_CHARACTERS = 50_000
SUGGESTED = 20
"""Recipients that the picker suggests."""

PAGE_POLICY = f"{HEADERS['Content-Security-Policy']}; frame-src 'self'"
# Nothing runs, loads, links or posts in the frame; its styles reach nothing outside of it.
FRAME_POLICY = (
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:{images}; font-src data:; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'self'"
)
_HEAD = re.compile(r"<head\b[^<>]*>|<!doctype[^<>]*>", re.IGNORECASE)
_SCHEME = re.compile(r"\(\s*prefers-color-scheme\s*:\s*(dark|light)\s*\)", re.IGNORECASE)
_DARK = '<meta name="color-scheme" content="dark">'

router = APIRouter(prefix="/campaigns/{campaign_id}/message", include_in_schema=False, route_class=PageRoute)


class Look(BaseModel):
    """How the message is looked at. Each choice is a link, so it needs no script."""

    email: str = ""
    part: Literal["html", "text", "headers", "source"] = "html"
    width: Literal["wide", "narrow"] = "wide"
    scheme: Literal["light", "dark"] = "light"
    images: Literal["attached", "all"] = "attached"

    def query(self, **changed: str) -> str:
        """The query of the same look with some members changed."""
        wanted = self.model_copy(update=changed)
        return urlencode(wanted.model_dump(exclude_defaults=True))


LookDep = Annotated[Look, Query()]


@router.get("")
async def message(request: Request, campaign: CampaignDep, project: ProjectDep, look: LookDep) -> Response:
    async with project.read() as connection:
        shown = await summaries.show(connection, campaign)
        people = await recipients.list_recipients(connection, campaign, Wanted(None, 0, SUGGESTED))
    seen, problem = None, None
    try:
        seen = (await _preview(project, campaign, look)).shown
    except InvalidError as refusal:
        problem = problem_of(refusal)
    response = render.page(
        request,
        "message.html",
        status_code=problem.status if problem else 200,
        section="campaigns",
        tab="message",
        campaign=shown,
        look=look,
        seen=seen,
        suggested=[one.email for one in people.data if one.email],
        problem=problem.document if problem else None,
        sources=[
            (title, source[:SOURCE_CHARACTERS], len(source) > SOURCE_CHARACTERS)
            for title, source in (("HTML", shown.html), ("Text", shown.text))
            if source
        ],
    )
    response.headers["Content-Security-Policy"] = PAGE_POLICY
    return response


@router.get("/html")
async def frame(campaign: CampaignDep, project: ProjectDep, look: LookDep) -> Response:
    """The HTML alone, for the frame of the page."""
    seen = await _preview(project, campaign, look)
    html = await asyncio.to_thread(_framed, seen, look.scheme)
    policy = FRAME_POLICY.format(images=" https: http:" if look.images == "all" else "")
    headers = {"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"}
    return Response(html, headers=headers, media_type="text/html; charset=utf-8")


def _framed(seen: Preview, scheme: str) -> str:
    return preview.with_images(_in_scheme(seen.shown.html or "", scheme), seen.images)


def _in_scheme(html: str, scheme: str) -> str:
    """The HTML as a program in this colour scheme shows it, whatever the browser's own is: the conditions of its styles
    on the scheme always hold, or never do."""

    def condition(found: re.Match[str]) -> str:
        return "(min-width: 0)" if found[1].lower() == scheme else "(max-width: 0)"

    html = _SCHEME.sub(condition, html)
    if scheme == "light":
        return html
    head = _HEAD.search(html)
    end = head.end() if head else 0
    return html[:end] + _DARK + html[end:]


async def _preview(project: ProjectDep, campaign: CampaignDep, look: Look) -> Preview:
    given = PreviewIn(email=look.email or None)
    api = project.api
    async with api.working.of(await preview.content_bytes(api.ledger, campaign)):
        return await preview.preview(api.ledger, api.settings, campaign, given)

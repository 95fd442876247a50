"""Signing in with an API key, or by a link that works once; signing out."""

import re
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from services.api.page import render, session
from services.api.page.route import FormDep, OpenRoute, PageRoute, SessionDep, see_other
from services.api.usecases import idempotency_keys
from services.api.web.context import ApiDep, api_of
from shared import logs
from shared.ledger import keys
from shared.ledger.database import clock
from shared.sign_in import PATH, Purpose, read_token
from shared.signing import TokenError, Use

_LOCAL = re.compile(r"/(?![/\\])[A-Za-z0-9/_.~?=&%-]*")
_USED_UP = "This link has been used or has expired. Sign in with an API key, or create a new link."
_WRONG = "This key is wrong or revoked, or has expired. `vashsender key list` shows which exist."

log = logs.get()
visitors = APIRouter(include_in_schema=False, route_class=OpenRoute)
members = APIRouter(include_in_schema=False, route_class=PageRoute)

_Next = Annotated[str, Query(alias="next", max_length=2000)]


@visitors.get(PATH)
async def ask(request: Request, wanted: _Next = "/") -> Response:
    if request.state.session is not None:
        return see_other(_local(wanted))
    return _form(request, wanted)


@visitors.post(PATH)
async def sign_in(request: Request, form: FormDep, api: ApiDep) -> Response:
    wanted = str(form.get("next", "/"))
    async with api.ledger.read() as connection:
        key = await keys.find(connection, secret=str(form.get("key", "")).strip())
    if key is None:
        return _form(request, wanted, status=401, error=_WRONG)
    return await _signed_in(request, key, _local(wanted))


@visitors.get(PATH + "/{token}")
async def ask_by_link(request: Request, token: str, api: ApiDep) -> Response:
    """Shows a button, which a script presses. A program that only fetches the link as a preview does not use it up."""
    try:
        said = read_token(api.settings.signing_keys(Use.SIGN_IN), Purpose.LINK, token)
    except TokenError as error:
        return _form(request, status=401, error=str(error))
    async with api.ledger.read() as connection:
        if said.until <= await clock(connection):
            return _form(request, status=401, error=_USED_UP)
    return render.page(request, "sign_in_link.html", token=token)


@visitors.post(PATH + "/{token}")
async def sign_in_by_link(request: Request, token: str, api: ApiDep) -> Response:
    try:
        said = read_token(api.settings.signing_keys(Use.SIGN_IN), Purpose.LINK, token)
    except TokenError as error:
        return _form(request, status=401, error=str(error))
    async with api.ledger.write() as connection:
        key = await keys.find(connection, key_id=said.key_id)
        over = said.until <= await clock(connection)
        # A space, so that no client's Idempotency-Key is the same. It is remembered for longer than the link is good.
        used = f"sign-in link {said.nonce}"
        if key is None or over or not await idempotency_keys.use_once(connection, key.project_id, used):
            return _form(request, status=401, error=_USED_UP)
    return await _signed_in(request, key, "/")


@members.post("/sign-out")
async def sign_out(api: ApiDep, visitor: SessionDep) -> Response:
    response = see_other(PATH)
    await session.end(api, visitor, response)
    return response


async def _signed_in(request: Request, key: keys.Key, path: str) -> Response:
    log.info("page.signed_in", key_id=str(key.id))
    response = see_other(path)
    await session.start(request, key, response)
    return response


def _form(request: Request, wanted: str = "/", *, status: int = 200, error: str = "") -> Response:
    development = api_of(request).settings.environment == "development"
    return render.page(
        request, "sign_in.html", status_code=status, error=error, wanted=_local(wanted), development=development
    )


def _local(path: str) -> str:
    """A path of this page, else `/`: after the sign-in a link must not lead to another site."""
    return path if _LOCAL.fullmatch(path) else "/"

"""Signing in with an API key, or by a link that works once; signing out."""

import re
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.api.context import Api, ApiDep
from services.api.page import render, session
from services.api.page.route import FormDep, OpenRoute, PageRoute, see_other
from shared import logs
from shared.ledger import keys
from shared.ledger.database import clock
from shared.ledger.models import IdempotencyKey
from shared.sign_in import PATH, Pass, PassError, Purpose, read_token

_LOCAL = re.compile(r"/(?![/\\])[A-Za-z0-9/_.~?=&%-]*")
_USED_UP = "This link has been used, or its time is over. Sign in with an API key, or have a new link made."
_WRONG = "This key is wrong or revoked. `vashsender key list` shows which exist."

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
    return await _signed_in(api, key, _local(wanted))


@visitors.get(PATH + "/{token}")
async def ask_by_link(request: Request, token: str, api: ApiDep) -> Response:
    """Shows a button, which a script presses: whatever only fetches the link to preview it does not use it up."""
    try:
        said = read_token(api.settings.secret_keys, Purpose.LINK, token)
    except PassError as error:
        return _form(request, status=401, error=str(error))
    async with api.ledger.read() as connection:
        if said.until <= await clock(connection):
            return _form(request, status=401, error=_USED_UP)
    return render.page(request, "sign_in_link.html", token=token)


@visitors.post(PATH + "/{token}")
async def sign_in_by_link(request: Request, token: str, api: ApiDep) -> Response:
    try:
        said = read_token(api.settings.secret_keys, Purpose.LINK, token)
    except PassError as error:
        return _form(request, status=401, error=str(error))
    async with api.ledger.write() as connection:
        key = await keys.find(connection, key_id=said.key_id)
        over = said.until <= await clock(connection)
        if key is None or over or not await _use_up(connection, key.project_id, said):
            return _form(request, status=401, error=_USED_UP)
    return await _signed_in(api, key, "/")


@members.post("/sign-out")
async def sign_out(api: ApiDep) -> Response:
    response = see_other(PATH)
    session.end(api, response)
    return response


async def _signed_in(api: Api, key: keys.Key, path: str) -> Response:
    log.info("page.signed_in", key_id=str(key.id))
    response = see_other(path)
    await session.start(api, key, response)
    return response


async def _use_up(connection: AsyncConnection, project_id: UUID, said: Pass) -> bool:
    """False for a link that was used before. It is remembered as an idempotency key that no client can send (there is a
    space in it), and so for longer than it is good."""
    insert = postgresql_insert if connection.dialect.name == "postgresql" else sqlite_insert
    used = await connection.execute(
        insert(IdempotencyKey)
        .values(
            project_id=project_id,
            key=f"sign-in link {said.nonce}",
            request_digest="",
            status_code=204,
            created_at=await clock(connection),
        )
        .on_conflict_do_nothing()
    )
    return used.rowcount > 0


def _form(request: Request, wanted: str = "/", *, status: int = 200, error: str = "") -> Response:
    development = request.app.state.api.settings.environment == "development"
    return render.page(
        request, "sign_in.html", status_code=status, error=error, wanted=_local(wanted), development=development
    )


def _local(path: str) -> str:
    """A path of this page, or its beginning: a link must not lead away after the sign-in."""
    return path if _LOCAL.fullmatch(path) else "/"

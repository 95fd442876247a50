"""Requests that may change something are noted in the audit, refused ones included."""

from collections.abc import Awaitable, Callable

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from services.api.context import Api
from services.api.usecases.acts import Act, doing
from services.api.usecases.errors import RefusedError
from services.api.web.context import api_of, client_address
from shared.ledger.audit import Actor, Via
from shared.ledger.database import is_unavailable
from shared.ledger.keys import Key
from shared.scopes import Scope

_LOOKS = ("GET", "HEAD")


async def audited(
    request: Request, via: Via, key: Key, needed: Scope | None, answer: Callable[[], Awaitable[Response]]
) -> Response:
    """The answer. A request that only looks, as its method or its scope says, is not noted."""
    if request.method in _LOOKS or needed is Scope.CAMPAIGNS_READ:
        return await answer()
    api = api_of(request)
    act = Act(
        Actor(via, str(key.id), key.name, client_address(request)),
        key.project_id,
        f"{request.method} {request.scope['route'].path}",
        [f"{name}={_safe(value)}" for name, value in request.path_params.items()],
    )
    try:
        with doing(act):
            response = await answer()
    except Exception as error:
        if (why := _why(error)) is not None:
            await _refused(api, act, why)
        raise
    if response.status_code >= 400:
        await _refused(api, act, str(response.status_code))
    return response


def _why(error: Exception) -> str | None:
    """The kind of a refusal; None if it is none, such as an answer that is given again."""
    if isinstance(error, RefusedError):
        return error.kind
    if isinstance(error, RequestValidationError):
        return "invalid"
    return str(error.status_code) if isinstance(error, HTTPException) else None


async def _refused(api: Api, act: Act, why: str) -> None:
    try:
        async with api.ledger.write() as connection:
            await act.note(connection, f"refused: {why}")
    except Exception as error:
        if not is_unavailable(error):
            raise


def _safe(value: object) -> str:
    """A part of a path. What looks like an address is left out: a recipient may have been meant."""
    text = str(value)
    return "..." if "@" in text else text[:200]

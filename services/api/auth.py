"""Who asks: `Authorization: Bearer vs_...`. A request without a valid key is answered before its body is read."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response, Security
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.types import Message, Receive

from services.api.context import Api
from services.api.problems import Problem, too_large
from shared.ledger import keys

REALM = 'Bearer realm="vashsender"'
key_required = Security(HTTPBearer(auto_error=False, description="A key made by `vashsender key create NAME`."))
"""Says in OpenAPI what `KeyRoute` does."""


class KeyRoute(APIRoute):
    """A route that asks for a key first; `request.state.project_id` is then the key's project."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def with_key(request: Request) -> Response:
            await _authenticate(request)
            return await handle(request)

        return with_key


class JsonRoute(KeyRoute):
    """A route that asks for a key, then bounds the body by `max_content_bytes`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def bounded(request: Request) -> Response:
            api: Api = request.app.state.api
            limit = api.settings.max_content_bytes
            return await handle(Request(request.scope, _bounded(request.receive, limit)))

        return bounded


async def _authenticate(request: Request) -> None:
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    if not secret:
        raise _unauthorized("missing-key", "No key was presented. Send it as `Authorization: Bearer vs_...`.", REALM)
    api: Api = request.app.state.api
    project_id = None
    if scheme.lower() == "bearer":
        async with api.ledger.read() as connection:
            project_id = await keys.project_of(connection, secret.strip())
    if project_id is None:
        raise _unauthorized(
            "wrong-key",
            "This key is wrong or revoked. `vashsender key list` shows which exist.",
            f'{REALM}, error="invalid_token"',
        )
    request.state.project_id = project_id


def _unauthorized(kind: str, detail: str, challenge: str) -> Problem:
    return Problem(401, kind, "A valid key is needed", detail, headers={"WWW-Authenticate": challenge})


def _bounded(receive: Receive, limit: int) -> Receive:
    size = 0

    async def bounded() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > limit:
            raise too_large(
                limit, "Import recipients as NDJSON or CSV, and host large pictures instead of attaching them."
            )
        return message

    return bounded

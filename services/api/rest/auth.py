"""Who asks: `Authorization: Bearer vs_...`. A request without a valid key is answered before its body is read."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response, Security
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer

from services.api.web.bodies import bounded
from services.api.web.context import api_of
from services.api.web.problems import HttpError
from shared.ledger import keys

REALM = 'Bearer realm="vashsender"'
ADVICE = "Import recipients as NDJSON or CSV, and host large pictures instead of attaching them."
key_required = Security(HTTPBearer(auto_error=False, description="A key made by `vashsender key create NAME`."))
"""States in OpenAPI what `KeyRoute` does."""

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class _UnauthorizedError(HttpError):
    status = 401
    title = "A valid key is needed"


class MissingKeyError(_UnauthorizedError):
    kind = "missing-key"

    def __init__(self) -> None:
        super().__init__(
            "No key was presented. Send it as `Authorization: Bearer vs_...`.", headers={"WWW-Authenticate": REALM}
        )


class WrongKeyError(_UnauthorizedError):
    kind = "wrong-key"

    def __init__(self) -> None:
        super().__init__(
            "This key is wrong or revoked. `vashsender key list` shows which exist.",
            headers={"WWW-Authenticate": f'{REALM}, error="invalid_token"'},
        )


class KeyRoute(APIRoute):
    """A route that asks for a key first; `request.state.project_id` is then the key's project."""

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()

        async def with_key(request: Request) -> Response:
            await _authenticate(request)
            return await handle(request)

        return with_key


class JsonRoute(KeyRoute):
    """A route that asks for a key, then bounds the body by `max_content_bytes`."""

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()

        async def with_bound(request: Request) -> Response:
            settings = api_of(request).settings
            return await handle(bounded(request, settings.max_content_bytes, ADVICE, settings.http_body_seconds))

        return with_bound


async def _authenticate(request: Request) -> None:
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    if not secret:
        raise MissingKeyError
    project_id = None
    if scheme.lower() == "bearer":
        async with api_of(request).ledger.read() as connection:
            project_id = await keys.project_of(connection, secret.strip())
    if project_id is None:
        raise WrongKeyError
    request.state.project_id = project_id

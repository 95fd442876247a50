"""Who asks: `Authorization: Bearer vs_...`. A request without a valid key, or whose key lacks the route's scope, is
answered before its body is read."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response, Security
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from services.api.usecases.errors import CutOffError
from services.api.usecases.keys import note_use
from services.api.web.audited import audited
from services.api.web.bodies import bounded, has_body
from services.api.web.context import api_of
from services.api.web.json_size import check_values
from services.api.web.problems import HttpError
from services.api.web.scopes import require, scope_of
from shared.ledger import keys
from shared.ledger.keys import Key

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
            "This key is wrong or revoked, or has expired. `vashsender key list` shows which exist.",
            headers={"WWW-Authenticate": f'{REALM}, error="invalid_token"'},
        )


class KeyRoute(APIRoute):
    """A route that asks first for a key with its scope; `request.state.key` is then that key."""

    def get_route_handler(self) -> Handler:
        handle = self._reading(super().get_route_handler())
        [needed] = {scope_of(method, self.path) for method in self.methods or ()}

        async def with_key(request: Request) -> Response:
            key = await _authenticate(request)
            request.state.key = key

            async def answer() -> Response:
                require(needed, key.scopes)
                return await handle(request)

            return await audited(request, "api", key, needed, answer)

        return with_key

    def _reading(self, handle: Handler) -> Handler:
        """How the body is read, once the key has been found good."""
        return handle


class JsonRoute(KeyRoute):
    """A route that asks for a key, then bounds the body: its bytes by `max_content_bytes`, and its values."""

    def _reading(self, handle: Handler) -> Handler:
        async def with_bound(request: Request) -> Response:
            api = api_of(request)
            if request.headers.get("content-encoding", "identity").lower() != "identity":
                raise HTTPException(415, "Send the body without Content-Encoding. Imports may be packed.")
            if request.method == "GET" and not has_body(request):
                return await handle(request)
            async with bounded(request, api.settings.max_content_bytes, ADVICE, api) as posted:
                try:
                    body = await posted.body()
                except ClientDisconnect:
                    raise CutOffError("The body was cut off. Nothing was done; repeat the request.") from None
                await check_values(body)
                return await handle(posted)

        return with_bound


async def _authenticate(request: Request) -> Key:
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    if not secret:
        raise MissingKeyError
    ledger = api_of(request).ledger
    key = None
    if scheme.lower() == "bearer":
        key = await keys.find_alone(ledger, secret.strip())
    if key is None:
        raise WrongKeyError
    await note_use(ledger, key)
    return key

"""Refuses requests whose headers say two things. A proxy may have understood the other one: it would forward a second
request inside the body of the first (request smuggling), or check another key than the one that counts here."""

from starlette.types import ASGIApp, Receive, Scope, Send

from services.api.web.problems import plain_problem

ONCE = (b"authorization", b"content-encoding", b"content-length", b"content-type", b"host", b"idempotency-key")
"""Headers that may stand there once."""


class OneMeaning:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (wrong := _wrong([name for name, _ in scope["headers"]])):
            await plain_problem(400, wrong, {"Connection": "close"}).response()(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _wrong(names: list[bytes]) -> str:
    """Names are in lower case. Empty: nothing is wrong."""
    for name in ONCE:
        if names.count(name) > 1:
            return f"The header {name.decode()} stands there more than once. Send it once."
    if b"transfer-encoding" in names and b"content-length" in names:
        return "Transfer-Encoding and Content-Length contradict each other (RFC 9112, 6.1). Send one of them."
    return ""

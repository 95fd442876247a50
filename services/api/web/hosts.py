"""Refuses requests for a host that is not ours. Otherwise a foreign web site whose name resolves to this machine (DNS
rebinding) is the same origin as the page for its visitor's browser, and may read what the page shows."""

import re
import socket
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from services.api.web.problems import plain_problem
from shared.settings import ApiSettings

ANY_HOST = ("/u/", "/health/")
"""Paths that answer at every host: links in emails outlive a change of VASHSENDER_PUBLIC_URL, their token is the proof;
load balancers ask by address."""

_PORT = re.compile(r":[0-9]*$")


class AllowedHosts:
    """ASGI middleware. A request with an API key passes at every host: no foreign site can send one."""

    def __init__(self, app: ASGIApp, settings: ApiSettings) -> None:
        self._app = app
        public = urlsplit(settings.public_url).hostname or ""
        self._allowed = {public, "localhost", socket.gethostname().lower(), *settings.allowed_hosts.split(",")} - {""}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._is_allowed(scope):
            host = Headers(scope=scope).get("host", "")[:255]
            detail = (
                f"This server does not answer for the host {host!r}. Use the host of VASHSENDER_PUBLIC_URL, or add this"
                " one to VASHSENDER_ALLOWED_HOSTS."
            )
            await plain_problem(421, detail).response()(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_allowed(self, scope: Scope) -> bool:
        headers = Headers(scope=scope)
        if scope["path"].startswith(ANY_HOST) or headers.get("authorization", "").lower().startswith("bearer "):
            return True
        host = _PORT.sub("", headers.get("host", "").lower()).strip("[]").removesuffix(".")
        if host in self._allowed:
            return True
        try:
            # The address that the client reached is no name that a stranger could have pointed here.
            return ip_address(host).is_loopback or host == (scope.get("server") or ("",))[0]
        except ValueError:
            return False

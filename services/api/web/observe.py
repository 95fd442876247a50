"""Measures every request, and answers those that failed in a way that no handler foresaw."""

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.api.metrics import ApiMetrics
from services.api.web.problems import problem_for

UNMATCHED = "unmatched"
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class Observe:
    """ASGI middleware: counts and times each request, and turns an unforeseen error into a problem."""

    def __init__(self, app: ASGIApp, metrics: ApiMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0
        started = time.perf_counter()

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            problem = problem_for(error, scope["path"])
            if status:
                raise  # half an answer is out: only closing the connection tells the client
            await problem.response()(scope, receive, watched)
        finally:
            # Not the path: scanners try paths without end, and each would become a label.
            route = getattr(scope.get("route"), "path", UNMATCHED)
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._metrics.requests.labels(route, method, status or 499).inc()
            self._metrics.seconds.labels(route, method).observe(time.perf_counter() - started)

"""What the API measures of itself, and the last net under errors nobody foresaw."""

import time

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.api.problems import unforeseen
from shared.metrics import PREFIX

UNMATCHED = "unmatched"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0)


class ApiMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            f"{PREFIX}_http_requests_total",
            "HTTP requests by route template, method and status.",
            ["route", "method", "status"],
            registry=registry,
        )
        self.seconds = Histogram(
            f"{PREFIX}_http_request_seconds",
            "Seconds from a request's headers to the end of its answer. Imports and event streams may take long.",
            ["route", "method"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.imported = Counter(
            f"{PREFIX}_imported_rows_total",
            "Imported rows by format and outcome: `accepted`, `duplicate` or `invalid`.",
            ["format", "outcome"],
            registry=registry,
        )
        self.undone = Counter(
            f"{PREFIX}_imports_undone_total",
            "Imports whose rows were removed again: `failed`, `cancelled` or `timed_out`.",
            ["outcome"],
            registry=registry,
        )


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
            problem = unforeseen(scope["path"], error)
            if status:
                raise  # half an answer is out: only closing the connection tells the client
            await problem.response()(scope, receive, watched)
        finally:
            # An unknown path would make a label that grows with whatever scanners try.
            route = getattr(scope.get("route"), "path", UNMATCHED)
            self._metrics.requests.labels(route, _method(scope), status or 499).inc()
            self._metrics.seconds.labels(route, _method(scope)).observe(time.perf_counter() - started)


def _method(scope: Scope) -> str:
    known = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
    return scope["method"] if scope["method"] in known else "other"

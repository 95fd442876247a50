"""`/health/live`, `/health/ready` and `/metrics`, the same on every service. They show hosts, campaigns and what is
wrong, so a port that strangers reach answers only whether the process works."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from sqlalchemy import func, select
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from shared import logs
from shared.bus import Bus
from shared.ledger import migrate
from shared.ledger.database import Ledger

CHECK_SECONDS = 2.0
REFRESH_SECONDS = 2.0
LATE_TICKS = 3
LATE_SECONDS = 15.0

log = logs.get()

Check = Callable[[], Awaitable[str]]
"""Returns what is wrong; empty if nothing is."""


class Health:
    """The health and metrics of one process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        #: What readiness checks, by name.
        self.checks: dict[str, Check] = {}
        #: Names of checks that are shown but do not make the process unready: it can do its work without.
        self.optional: set[str] = set()
        #: Called before metrics are read, to fill gauges. Gauges of one that fails, or takes more than REFRESH_SECONDS,
        #: keep their values.
        self.refresh: list[Callable[[], Awaitable[None]]] = []

    async def report(self) -> Mapping[str, str]:
        """The result of each check: `ok`, or what is wrong. All run at once, each for at most CHECK_SECONDS."""

        async def run(check: Check) -> str:
            try:
                async with asyncio.timeout(CHECK_SECONDS):
                    return await check() or "ok"
            except TimeoutError:
                return f"no answer within {CHECK_SECONDS:g} s"
            except Exception as error:  # noqa: BLE001 - any error is a result
                return f"{type(error).__name__}: {error}".splitlines()[0]

        results = await asyncio.gather(*(run(check) for check in self.checks.values()))
        return dict(zip(self.checks, results, strict=True))

    def routes(self) -> list[Route]:
        """For a port that only machinery reaches."""
        return [
            Route("/health/live", self._live),
            Route("/health/ready", self._ready),
            Route("/metrics", self._metrics),
        ]

    def public_routes(self) -> list[Route]:
        """For a port that strangers reach, for load balancers in front of it: the status without reasons, no
        metrics."""
        return [Route("/health/live", self._live), Route("/health/ready", self._status)]

    async def _live(self, _request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _ready(self, _request: Request) -> Response:
        report = await self.report()
        wrong = {name for name, result in report.items() if result != "ok"}
        if wrong - self.optional:
            return JSONResponse({"status": "unavailable", "checks": report}, 503)
        return JSONResponse({"status": "degraded" if wrong else "ok", "checks": report})

    async def _status(self, request: Request) -> Response:
        answer = await self._ready(request)
        return JSONResponse({"status": json.loads(bytes(answer.body))["status"]}, answer.status_code)

    async def _metrics(self, _request: Request) -> Response:
        for refresh in self.refresh:
            try:
                async with asyncio.timeout(REFRESH_SECONDS):
                    await refresh()
            except Exception as error:  # noqa: BLE001 - metrics must be readable whatever is broken
                log.warning("metrics.stale", error=f"{type(error).__name__}: {error}".splitlines()[0])
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)


def database_check(ledger: Ledger) -> Check:
    """Checks that the database answers and accepts writes, and that this code can work with its schema."""

    async def check() -> str:
        async with ledger.read() as connection:
            current = await migrate.current(connection)
            is_standby = not ledger.is_sqlite and await connection.scalar(select(func.pg_is_in_recovery()))
        if is_standby:
            await ledger.leave_server()
            return "it is a standby, which takes no writes"
        if migrate.suits(current):
            return f"it accepts no writes: {ledger.trouble}" if ledger.trouble else ""
        return f"the schema is at {current or 'nothing'}, this code needs {migrate.head()}: run `vashsender db upgrade`"

    return check


def late(ended_at: float, clock_seconds: float, what: str) -> str:
    """What is wrong with ticks that should end at least every `clock_seconds`; `ended_at` is the monotonic time of the
    last end. Empty if nothing is."""
    ago = time.monotonic() - ended_at
    return f"no {what} has ended for {ago:.0f} s" if ago > LATE_TICKS * clock_seconds + LATE_SECONDS else ""


def broker_check(bus: Bus) -> Check:
    async def check() -> str:
        return await bus.check(CHECK_SECONDS)

    return check

"""The life of a service process: settings, logs, ledger, bus, HTTP port, clocks, and a stop that loses nothing.

Each `services/X/main.py` has one coroutine, `serve(process)`, which reads from top to bottom: it builds the parts,
subscribes them to events, adds what `/health` and `/metrics` show, and ends with `process.run(...)`.
"""

import asyncio
import faulthandler
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import uvloop
from starlette.applications import Starlette
from starlette.types import ASGIApp

from shared import logs, settings
from shared.bus import Bus
from shared.compiled import is_compiled
from shared.errors import ConfigurationError, VashSenderError
from shared.health import Health, broker_check, database_check
from shared.http_connection import HttpLimits
from shared.http_port import serving
from shared.ledger import instances
from shared.ledger.database import Ledger, in_a_line, is_unavailable
from shared.memory import keep_what_is_loaded, return_freed_blocks
from shared.metrics import Metrics
from shared.notify import Notifier
from shared.reception import Reception
from shared.tasks import end_all
from shared.ticks import Ticks

PORT_OFFSETS = {"dispatcher": 10, "watchdog": 11, "webhooks": 13, "feedback": 14, "sender": 20}
"""Where the HTTP port of a service lies in the block of ports."""
ALIVE_SECONDS = 5.0
"""How often a service notes in the ledger that it is alive."""
SIGNS_PER_LIMIT = 4
"""Watchdog pings sent within the time that systemd waits for one."""
STATUS_SECONDS = 10.0
"""How often systemd gets a status line if it waits for no watchdog ping."""
NOTE_STOP_SECONDS = 5.0
"""How long a process that stops tries to note it."""

S = TypeVar("S", bound=settings.CommonSettings)
log = logs.get()


class Process(Generic[S]):
    """What a service's parts are built from, and the loop that runs them. Parts open no client themselves."""

    def __init__(self, service: str, config: S) -> None:
        self.service = service
        self.settings = config
        self.instance = config.instance_name(service)
        self.metrics = Metrics(service)
        self.ledger = Ledger(
            config.ledger_url,
            pool_size=config.database_pool_size,
            application=self.instance,
            transaction_seconds=config.transaction_seconds,
        )
        self.metrics.database_writable.set_function(lambda: 0.0 if self.ledger.trouble else 1.0)
        self.bus = Bus(
            config.broker_url,
            self.metrics,
            name=self.instance,
            publish_timeout_seconds=config.publish_timeout_seconds,
            reception=Reception(service, config.broker_url, accepts_nameless=config.nameless_events == "accept"),
        )
        self.health = Health(self.metrics.registry)
        self.health.checks["database"] = database_check(self.ledger)
        self.health.checks["broker"] = broker_check(self.bus)
        self.health.checks["draining"] = self._draining
        self.notifier = Notifier(os.environ)
        #: Repeating work that must not hang; `clock` adds its own.
        self.ticks: list[Ticks] = []
        #: Set when the process starts to stop.
        self.stopping = asyncio.Event()
        #: True after SIGTERM or SIGINT, but not when the process stops to restart itself.
        self.told_to_stop = False
        self._restarts = False
        #: Whether the ledger says that this process is alive.
        self._is_noted = False
        self._started_at = time.monotonic()

    @property
    def restarts(self) -> bool:
        """Whether `main` runs the same command again once this process has stopped."""
        return self._restarts and not self.told_to_stop

    def restart(self) -> None:
        """Stops as a signal would; `main` then runs the same command again under the same pid, so that a supervisor
        does not count it as a crash. A signal that comes meanwhile wins: the process stops for good."""
        self._restarts = True
        self.stopping.set()

    def hung(self) -> str:
        """Names the tick that has lasted longer than `hung_seconds`; empty if there is none. While the database is
        away ticks wait for it, and a new process would wait too: that is not a hang."""
        limit = self.settings.hung_seconds
        longest = max(self.ticks, key=lambda ticks: ticks.seconds, default=None)
        if longest is None or longest.seconds <= limit or self.ledger.failed_within(limit):
            return ""
        return f"hung: a tick of {longest.name} has lasted {longest.seconds:.0f} s"

    async def note_alive(self) -> None:
        """A tick: notes in the ledger that this process is alive. Senders send heartbeats instead."""
        self._is_noted = True
        await self._note(draining=False)

    async def _note_stop(self) -> None:
        """Notes that a process that was noted as alive has stopped, or else the page would show it as silent. Without a
        database nothing can be noted."""
        if not self._is_noted:
            return
        try:
            async with asyncio.timeout(NOTE_STOP_SECONDS):
                await self._note(draining=True)
        except TimeoutError:
            log.warning("database.unreachable", error=f"no answer within {NOTE_STOP_SECONDS:g} s")
        except Exception as error:
            if not is_unavailable(error):
                raise

    async def _note(self, *, draining: bool) -> None:
        await self.ledger.write_at_once(
            partial(
                instances.seen,
                instance=self.instance,
                service=self.service,
                draining=draining,
                uptime_seconds=time.monotonic() - self._started_at,
            )
        )

    async def clock(self, tick: Callable[[], Awaitable[None]], seconds: float, *, may_last: bool = False) -> None:
        """Calls `tick` every `seconds`, with a little jitter so that replicas do not act in step. A tick that fails is
        logged and the next one tries again: a warning if the database is away, an exception otherwise.

        `may_last`: a tick may take as long as there is work, so a long one is not a hang."""
        ticks = Ticks(tick.__qualname__)
        if not may_last:
            self.ticks.append(ticks)
        while True:
            try:
                with ticks:
                    await tick()
            except Exception as error:
                if is_unavailable(error):
                    log.warning("database.unreachable", error=in_a_line(error))
                else:
                    log.exception("tick.failed")
            await asyncio.sleep(seconds * random.uniform(0.9, 1.1))

    async def run(
        self,
        *background: Coroutine[Any, Any, None],
        app: ASGIApp | None = None,
        drain: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Runs until SIGTERM, SIGINT or `restart`. Then events stop coming, `drain` is awaited, background work is
        cancelled, and bus and ledger are closed. An error in background work ends the process; its supervisor starts
        it again. `app` is served on the HTTP port, `/health` and `/metrics` on the health port."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        async with self._serving(app), self._reporting():
            self.bus.start()
            keep_what_is_loaded()
            log.info("service.started", compiled=is_compiled())
            # Not what /health/ready means: a service waits for what is away, and a boot must not wait for the service.
            self.notifier.ready()
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(coroutine) for coroutine in background]
                    await self.stopping.wait()
                    self._announce_stop()
                    await self.bus.stop_consuming()
                    if drain is not None:
                        await drain()
                    await end_all(tasks)
            finally:
                await self.bus.close()
                await self._note_stop()
                await self.ledger.close()
                log.info("service.stopped")

    @property
    def has_health_port(self) -> bool:
        """Whether `/health` and `/metrics` have a separate port, apart from the API's."""
        return self.settings.health_port not in (0, self._http_port())

    @asynccontextmanager
    async def _serving(self, app: ASGIApp | None) -> AsyncIterator[None]:
        config, limits = self.settings, HttpLimits.of(self.settings)
        machinery = Starlette(routes=self.health.routes())
        async with AsyncExitStack() as ports:
            if self.has_health_port:
                port = serving(machinery, config.http_host, config.health_port, limits, "VASHSENDER_HEALTH_PORT")
                await ports.enter_async_context(port)
            if app is not None or not self.has_health_port:
                await ports.enter_async_context(serving(app or machinery, config.http_host, self._http_port(), limits))
            yield

    def _http_port(self) -> int:
        return self.settings.http_port or self._default_port()

    def _default_port(self) -> int:
        if self.service == "api":
            return self.settings.api_port
        return self.settings.base_port + PORT_OFFSETS[self.service] + self.settings.slot_number - 1

    def _stop(self) -> None:
        self.told_to_stop = True
        self.stopping.set()

    def _announce_stop(self) -> None:
        log.info("service.stopping")
        if self.told_to_stop:
            self.notifier.stopping()
            return
        self.notifier.reloading()
        if self.settings.log_file is not None:
            # The next run inherits this: SIGHUP would otherwise kill it before it has opened its log file.
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    async def _draining(self) -> str:
        return "this process is stopping" if self.stopping.is_set() else ""

    @asynccontextmanager
    async def _reporting(self) -> AsyncIterator[None]:
        """Reports to systemd inside the block, drain included; does nothing without systemd."""
        if not self.notifier.is_heard:
            yield
            return
        reporting = asyncio.create_task(self._report())
        try:
            yield
        finally:
            await end_all([reporting])

    async def _report(self) -> None:
        """Pings systemd's watchdog from the event loop that does the work: a blocked loop sends no ping, and a hung
        tick withholds it. systemd then sends SIGABRT, on which faulthandler writes the stacks to the log."""
        pause = self.notifier.watchdog_seconds / SIGNS_PER_LIMIT or STATUS_SECONDS
        while True:
            if hung := self.hung():
                log.error("process.hung", reason=hung)
                self.notifier.status(hung)
            else:
                self.notifier.alive()
                if not self.stopping.is_set():
                    self.notifier.status(_status_line(await self.health.report()))
            await asyncio.sleep(pause)


def _status_line(report: Mapping[str, str]) -> str:
    wrong = [f"{name}: {result}" for name, result in report.items() if result != "ok"]
    return f"waiting for {'; '.join(wrong)}" if wrong else "ready"


def main(service: str, settings_class: type[S], serve: Callable[[Process[S]], Coroutine[Any, Any, None]]) -> None:
    """Runs `python -m services.X`. Exits with 0 after a clean stop, or with the exit code of the error."""
    faulthandler.enable()  # on SIGABRT, writes the stacks to stderr
    return_freed_blocks()
    try:
        config = settings.load(settings_class)
        if config.log_file is not None:
            _write_log_to(config.log_file)
        logs.configure(service, config.instance_name(service), log_format=config.log_format, level=config.log_level)

        async def run() -> bool:
            process = Process(service, config)
            await serve(process)
            return process.restarts

        restarts = uvloop.run(run())
    except (VashSenderError, BaseExceptionGroup) as error:
        known = _known(error)
        if known is None:
            raise
        sys.stderr.write(f"{service}: {known}\n")
        sys.exit(known.exit_code)
    if restarts:
        log.info("service.restarting")
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - no shell is wanted


def _write_log_to(path: Path) -> None:
    try:
        logs.write_to(path)
    except OSError as error:
        raise ConfigurationError(f"VASHSENDER_LOG_FILE: cannot write {path}: {error.strerror}") from error


def _known(error: BaseException) -> VashSenderError | None:
    """The first VashSenderError in a task group's error; None if there is none."""
    if isinstance(error, BaseExceptionGroup):
        return next((known for inner in error.exceptions if (known := _known(inner))), None)
    return error if isinstance(error, VashSenderError) else None

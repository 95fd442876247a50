"""How every service runs: settings, logs, ledger, bus, HTTP port, clock, and a stop that loses nothing."""

import asyncio
import errno
import faulthandler
import os
import random
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

import psutil
import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.types import ASGIApp

from shared import logs, settings
from shared.bus import Bus
from shared.errors import ConfigurationError, VashSenderError
from shared.health import Health, broker_check, database_check
from shared.ledger.database import Ledger, in_a_line, is_unavailable
from shared.metrics import Metrics
from shared.notify import Notifier
from shared.turns import Turn

DEFAULT_PORTS = {"api": 8700, "dispatcher": 8710, "watchdog": 8711, "sender": 8720}
HTTP_CLOSE_SECONDS = 2
SIGNS_PER_LIMIT = 4
"""Signs of life within the time that systemd waits for one."""
STATUS_SECONDS = 10.0
"""How often systemd is told how this process is, where it waits for no sign of life."""

S = TypeVar("S", bound=settings.CommonSettings)
log = logs.get()


class Process(Generic[S]):
    """Everything a service is given. It builds no client of its own."""

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
        )
        self.health = Health(self.metrics.registry)
        self.health.checks["database"] = database_check(self.ledger)
        self.health.checks["broker"] = broker_check(self.bus)
        self.health.checks["draining"] = self._draining
        self.stopping = asyncio.Event()
        self.told_to_stop = False  # by a signal, and not by itself
        self.turns: list[Turn] = []
        self.notifier = Notifier(os.environ)

    def hung(self) -> str:
        """Which turn lasts so long that it will not end by itself, in words; empty where none does. While the database
        is away turns wait for it, and a new process could do no better: that is not hung."""
        limit = self.settings.hung_seconds
        longest = max(self.turns, key=lambda turn: turn.seconds, default=None)
        if longest is None or longest.seconds <= limit or self.ledger.failed_within(limit):
            return ""
        return f"hung: a turn of {longest.name} has lasted {longest.seconds:.0f} s"

    async def _draining(self) -> str:
        return "this process is stopping" if self.stopping.is_set() else ""

    async def clock(self, turn: Callable[[], Awaitable[None]], seconds: float, *, may_last: bool = False) -> None:
        """Calls `turn` every `seconds`, with a little jitter so that replicas do not act in step. A turn that fails
        because the database is away is logged and the next one tries again; any other error is one too, but loud.
        `may_last`: how long a turn takes grows with the work it finds, so that a long one is not taken for hung."""
        present = Turn(turn.__qualname__)
        if not may_last:
            self.turns.append(present)
        while True:
            try:
                with present:
                    await turn()
            except Exception as error:
                if is_unavailable(error):
                    log.warning("database.unreachable", error=in_a_line(error))
                else:
                    log.exception("turn.failed")
            await asyncio.sleep(seconds * random.uniform(0.9, 1.1))

    async def run(
        self,
        *background: Coroutine[Any, Any, None],
        app: ASGIApp | None = None,
        drain: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Serves until SIGTERM or SIGINT. Then: no further events, `drain`, the background work is cancelled, the bus
        and the ledger close. An error in background work ends the process: the supervisor starts it again."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        async with self._http(app or Starlette(routes=self.health.routes())), self._telling():
            self.bus.start()
            log.info("service.started")
            # Not readiness as /health/ready has it: what is away now is waited for, and must not hold up a boot.
            self.notifier.ready()
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(coroutine) for coroutine in background]
                    await self.stopping.wait()
                    log.info("service.stopping")
                    if self.told_to_stop:
                        self.notifier.stopping()
                    else:
                        self.notifier.reloading()
                        if self.settings.log_file is not None:
                            # What begins anew inherits this, and cannot be killed before it has opened its log.
                            signal.signal(signal.SIGHUP, signal.SIG_IGN)
                    await self.bus.stop_consuming()
                    if drain is not None:
                        await drain()
                    for task in tasks:
                        task.cancel()
            finally:
                await self.bus.close()
                await self.ledger.close()
                log.info("service.stopped")

    def _stop(self) -> None:
        self.told_to_stop = True
        self.stopping.set()

    @asynccontextmanager
    async def _telling(self) -> AsyncIterator[None]:
        """Tells systemd of this process, its drain included; nothing where nobody listens."""
        if not self.notifier.is_heard:
            yield
            return
        telling = asyncio.create_task(self._tell())
        try:
            yield
        finally:
            telling.cancel()
            with suppress(asyncio.CancelledError):
                await telling

    async def _tell(self) -> None:
        """A sign of life now and then, by the loop that does the work: a blocked loop gives none, and a turn that hangs
        withholds it. systemd then ends the process with SIGABRT, which writes where it stood to the log."""
        pause = self.notifier.watchdog_seconds / SIGNS_PER_LIMIT or STATUS_SECONDS
        while True:
            if hung := self.hung():
                log.error("process.hung", reason=hung)
                self.notifier.status(hung)
            else:
                self.notifier.alive()
                if not self.stopping.is_set():
                    self.notifier.status(_in_words(await self.health.report()))
            await asyncio.sleep(pause)

    @asynccontextmanager
    async def _http(self, app: ASGIApp) -> AsyncIterator[None]:
        port = self.settings.http_port or DEFAULT_PORTS[self.service] + self.settings.slot_number - 1
        server = _Server(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=HTTP_CLOSE_SECONDS,
                server_header=False,
                proxy_headers=False,
            )
        )
        listening = listen(self.settings.http_host, port)
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield
        finally:
            server.should_exit = True
            await serving
            listening.close()


class _Server(uvicorn.Server):
    """Uvicorn without its signal handlers: the process decides when to stop."""

    @contextmanager
    def capture_signals(self) -> Any:
        yield


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, or a ConfigurationError that names the process which holds the port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise ConfigurationError(f"cannot listen on {host}:{port}: {error.strerror}") from error
        raise ConfigurationError(
            f"port {port} is taken{holder(port)}. Stop that process, or set VASHSENDER_HTTP_PORT to a free port."
        ) from None


def holder(port: int) -> str:
    """ " by NAME (pid N)" of the process that listens on a local port; empty where the system does not tell."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
                return f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})" if connection.pid else ""
    except psutil.Error:
        pass
    return ""


def _in_words(report: Mapping[str, str]) -> str:
    wrong = [f"{name}: {result}" for name, result in report.items() if result != "ok"]
    return f"waiting for {'; '.join(wrong)}" if wrong else "ready"


def main(service: str, settings_class: type[S], body: Callable[[Process[S]], Coroutine[Any, Any, None]]) -> None:
    """The entry of `python -m services.X`: exits 0 after a clean stop, else with the error's own code."""
    faulthandler.enable()  # what SIGABRT interrupted is written to stderr
    try:
        config = settings.load(settings_class)
        if config.log_file is not None:
            _write_log_to(config.log_file)
        instance = config.instance_name(service)
        logs.configure(service, instance, log_format=config.log_format, level=config.log_level)

        async def run() -> None:
            await body(Process(service, config))

        uvloop.run(run())
    except (VashSenderError, BaseExceptionGroup) as error:
        known = _known(error)
        if known is None:
            raise
        sys.stderr.write(f"{service}: {known}\n")
        sys.exit(known.exit_code)


def _write_log_to(path: Path) -> None:
    try:
        logs.write_to(path)
    except OSError as error:
        raise ConfigurationError(f"VASHSENDER_LOG_FILE: cannot write {path}: {error.strerror}") from error


def _known(error: BaseException) -> VashSenderError | None:
    """The error meant for people inside a group of a task group's making."""
    if isinstance(error, BaseExceptionGroup):
        return next((known for inner in error.exceptions if (known := _known(inner))), None)
    return error if isinstance(error, VashSenderError) else None

"""An HTTP port of a process: `/health` and `/metrics` everywhere, the page and the API in `api`."""

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from shared.errors import ConfigurationError
from shared.http_connection import HttpLimits, LimitedConfig, LimitedConnection
from shared.ports import holder

HTTP_CLOSE_SECONDS = 2
"""How long open requests may take to finish when the process stops."""

DATE_SECONDS = 1.0
"""How often the Date of answers is renewed (RFC 9110, 6.6.1)."""


@asynccontextmanager
async def serving(
    app: ASGIApp, host: str, port: int, limits: HttpLimits, setting: str = "VASHSENDER_HTTP_PORT"
) -> AsyncIterator[None]:
    """Serves `app` inside the block, within `limits`.

    Raises ConfigurationError, which names `setting`, if the port cannot be used."""
    listening = _listen(host, port, setting)
    config = LimitedConfig(
        app,
        http=LimitedConnection,
        ws="none",
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=HTTP_CLOSE_SECONDS,
        server_header=False,
        proxy_headers=False,
    )
    config.limits = limits
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        yield
    finally:
        server.end()
        await task
        listening.close()


class _Server(uvicorn.Server):
    """Uvicorn without its signal handlers: the process decides when to stop."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ended = asyncio.Event()

    def end(self) -> None:
        """Stops serving."""
        self.should_exit = True
        self._ended.set()

    @contextmanager
    def capture_signals(self) -> Any:
        yield

    async def main_loop(self) -> None:
        """Uvicorn itself looks ten times per second whether it must stop: most of what an idle process does."""
        while not await self.on_tick(0):  # renews the Date
            with suppress(TimeoutError):
                async with asyncio.timeout(DATE_SECONDS):
                    await self._ended.wait()


def _listen(host: str, port: int, setting: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise ConfigurationError(f"cannot listen on {host}:{port}: {error.strerror}") from error
        raise ConfigurationError(
            f"port {port} is taken by {holder(port)}. Stop that process, or set {setting} to a free port."
        ) from None

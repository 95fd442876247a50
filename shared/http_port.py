"""An HTTP port of a process: `/health` and `/metrics` everywhere, the page and the API in `api`."""

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from shared.errors import ConfigurationError
from shared.http_connection import HttpLimits, LimitedConfig, LimitedConnection
from shared.ports import holder

HTTP_CLOSE_SECONDS = 2
"""How long open requests may take to finish when the process stops."""


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
        server.should_exit = True
        await task
        listening.close()


class _Server(uvicorn.Server):
    """Uvicorn without its signal handlers: the process decides when to stop."""

    @contextmanager
    def capture_signals(self) -> Any:
        yield


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

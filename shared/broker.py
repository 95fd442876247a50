"""Connections to the broker, which may be several servers. A connection that breaks is made again to another of them.

An AMQP URL may name several hosts, `amqp://user:password@mq1,mq2:5673/vhost`, and a host may resolve to several
addresses. Each attempt begins with the address that was tried least recently, so one that takes connections but never
answers is tried once per round, not forever.
"""

import asyncio
import os
import random
import socket
import ssl
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import aio_pika
from aio_pika.abc import AbstractConnection
from aiormq.connection import TransportFactory
from aiormq.exceptions import AMQPConnectionError, InvalidFrameError
from pamqp.commands import Connection as ConnectionFrames
from yarl import URL

from shared.broker_url import hosts_of, with_one_host

CONNECT_SECONDS = 5.0
"""How long one attempt may take: resolving, connecting, TLS, and the broker's answers until the connection is open."""
RESTORE_SECONDS = 15.0
"""How long a new connection may take until its channels and consumers are there again."""
READY_SECONDS = 10.0
"""How long anything waits for a connection that is being made."""


@dataclass(frozen=True, slots=True)
class Address:
    """One address of one host."""

    host: str  # what the certificate must be for
    ip: str
    port: int

    def __str__(self) -> str:
        at = f"[{self.ip}]:{self.port}" if ":" in self.ip else f"{self.ip}:{self.port}"
        return at if self.host == self.ip else f"{self.host} ({at})"


class ServersInTurn(TransportFactory):
    """Opens the transports of one connection, each time to the address that was tried least recently."""

    def __init__(self, url: str) -> None:
        self._hosts = hosts_of(url)
        #: When each address was tried last, by the monotonic clock; -inf if never.
        self._tried: dict[Address, float] = {}
        #: The newest transport, which may be closed.
        self.transport: asyncio.WriteTransport | None = None

    @property
    def all_tried(self) -> bool:
        """Whether every known address was tried."""
        return all(at > float("-inf") for at in self._tried.values())

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Raises AMQPConnectionError, with the reason for each address, if none takes a connection."""
        context = await kwargs["ssl_context_provider"].get_context() if url.scheme == "amqps" else None
        problems = await self._resolve()
        for address in sorted(self._tried, key=lambda each: (self._tried[each], random.random())):
            self._tried[address] = time.monotonic()
            try:
                reader, writer = await asyncio.open_connection(
                    address.ip, address.port, ssl=context, server_hostname=address.host if context else None
                )
            except OSError as error:
                problems.append(f"{address}: {_why(error)}")
            else:
                self.transport = writer.transport
                return reader, writer
        raise AMQPConnectionError("; ".join(problems))

    async def _resolve(self) -> list[str]:
        """Looks the hosts up again, since their addresses may change. Returns what is wrong with which host."""
        loop = asyncio.get_running_loop()
        answers = await asyncio.gather(
            *(loop.getaddrinfo(host, port, type=socket.SOCK_STREAM) for host, port in self._hosts),
            return_exceptions=True,
        )
        known, problems = [], []
        for (host, port), answer in zip(self._hosts, answers, strict=True):
            if isinstance(answer, OSError):
                problems.append(f"{host}: {_why(answer)}")
            elif isinstance(answer, BaseException):
                raise answer
            else:
                known += [Address(host, str(sockaddr[0]), port) for *_, sockaddr in answer]
        self._tried = {address: self._tried.get(address, float("-inf")) for address in known}
        return problems


def _why(error: OSError) -> str:
    """The reason in the system's words; those of an event loop repeat the address, and those of TLS have no number."""
    if isinstance(error, ssl.SSLError):
        return str(error)
    return os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)


class LastingConnection(aio_pika.RobustConnection):
    """A connection that is made again when it breaks, to each server in turn."""

    def __init__(self, url: URL, loop: asyncio.AbstractEventLoop | None = None, **kwargs: Any) -> None:
        servers: ServersInTurn = kwargs.pop("servers")
        super().__init__(url, loop, **kwargs)
        self._servers = servers
        self.kwargs["transport_factory"] = servers

    async def _on_connected(self) -> None:
        """Restores the channels and consumers. If that takes too long, the connection is made again, to the next
        server: a queue that has just lost its leader may leave the request for a consumer without an answer."""
        transport = self._servers.transport
        try:
            async with asyncio.timeout(RESTORE_SECONDS):
                await super()._on_connected()
        except TimeoutError:
            if transport is not None:
                transport.abort()
            raise

    async def ready(self) -> None:
        """Raises TimeoutError after READY_SECONDS. The task that makes the connection calls this too, while it restores
        a channel; if the connection broke just then, it would wait for itself forever."""
        async with asyncio.timeout(READY_SECONDS):
            await super().ready()

    async def is_blocked(self) -> bool:
        """Whether the broker takes no messages from it, because of a memory or disk alarm."""
        if self.transport is None:
            return False
        try:
            async with asyncio.timeout(0):
                await self.transport.ready()
        except TimeoutError:
            return True
        return False


@contextmanager
def broken_is_an_error() -> Iterator[None]:
    """Raises ConnectionError if the connection breaks. aiormq cancels what waits for a connection that has been silent
    for too long, which looks as if the waiting task had been cancelled."""
    task = asyncio.current_task()
    cancelled_before = task.cancelling() if task is not None else 0
    try:
        yield
    except asyncio.CancelledError:
        if task is None or task.cancelling() > cancelled_before:
            raise
        raise ConnectionError("the connection broke") from None


def why_refused(error: BaseException) -> str:
    """Says why a connection cannot be made. A broker that refuses the virtual host (it does not exist, does not run on
    this server, is full, or the account may not use it) says which; aiormq's error has only the name of that frame."""
    if isinstance(error, InvalidFrameError):
        for frame, _ in traceback.walk_tb(error.__traceback__):
            answer = frame.f_locals.get("frame")
            if isinstance(answer, ConnectionFrames.Close):
                return f"the broker refused the connection: {answer.reply_text}"
    return f"{type(error).__name__}: {error}"


async def connect(url: str, *, timeout_seconds: float = 30.0, name: str = "") -> AbstractConnection:
    """A connection for one task, which is not made again. Tries each address once.

    Raises OSError (TimeoutError is one) or AMQPError if no server can be used."""
    url = with_one_host(url)
    servers = ServersInTurn(url)
    async with asyncio.timeout(timeout_seconds):
        while True:
            connection = aio_pika.Connection(URL(url), client_properties={"connection_name": name} if name else None)
            connection.kwargs["transport_factory"] = servers
            try:
                await connection.connect(timeout=CONNECT_SECONDS)
            except (OSError, aio_pika.exceptions.AMQPError) as error:
                await connection.close()
                if servers.all_tried:
                    if isinstance(error, InvalidFrameError):
                        raise AMQPConnectionError(why_refused(error)) from error
                    raise
            else:
                return connection

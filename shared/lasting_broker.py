"""FastStream's broker on a connection that lasts."""

import asyncio
from functools import partial
from typing import Any

from aiormq.abc import AbstractChannel
from faststream.rabbit import RabbitBroker

from shared import logs
from shared.broker import LastingConnection, ServersInTurn, broken_is_an_error

ANSWER_SECONDS = 5.0  # for questions about a queue

log = logs.get()


class LastingBroker(RabbitBroker):
    """One connection, made again when it breaks, to each server of the broker in turn."""

    def __init__(self, url: str, **how: Any) -> None:
        super().__init__(url, **how)
        self.servers = ServersInTurn(url)
        #: The channel for questions. The broker closes it if a queue is missing.
        self._asking: AbstractChannel | None = None
        self._connection_kwargs["connection_class"] = partial(LastingConnection, servers=self.servers)

    @property
    def transport(self) -> asyncio.WriteTransport | None:
        """What its connection uses now, which may be closed; None before the first one."""
        return self.servers.transport

    async def leave(self, transport: asyncio.WriteTransport | None) -> None:
        """Breaks the connection if it still uses this transport, so that it is made again, to another server if there
        is one. Does nothing during an alarm: the broker answers then, but takes no messages, on any server."""
        if transport is None or transport is not self.transport:
            return
        if not await self._is_blocked():
            log.warning("broker.left", action="connecting again")
            transport.abort()

    async def takes_messages(self) -> bool:
        """Whether it is connected, and no alarm of the broker makes it wait."""
        connection = self._connection
        return connection is not None and connection.connected.is_set() and not await self._is_blocked()

    async def count_ready(self, queue: str) -> int:
        """How many messages in a queue are with no consumer. Raises TimeoutError if no answer comes, AMQPError
        or OSError if it cannot be known now."""
        transport = self._connection.transport if self._connection is not None else None
        if transport is None:
            raise ConnectionError("not connected")
        with broken_is_an_error():
            async with asyncio.timeout(ANSWER_SECONDS):
                if self._asking is None or self._asking.is_closed:
                    self._asking = await transport.connection.channel(publisher_confirms=False)
                declared = await self._asking.queue_declare(queue, passive=True)
        return declared.message_count or 0

    async def _is_blocked(self) -> bool:
        return isinstance(self._connection, LastingConnection) and await self._connection.is_blocked()

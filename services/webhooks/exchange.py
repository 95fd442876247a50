"""The exchange for the events of projects: publishes a batch in order and waits until the broker has confirmed it."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

import aio_pika
import orjson
from aio_pika.abc import AbstractConnection
from aiormq.abc import AbstractChannel
from aiormq.exceptions import DeliveryError
from yarl import URL

from shared import broker, topology
from shared.broker_url import with_one_host
from shared.reception import account_of

CONNECT_SECONDS = 10.0
HEARTBEAT_SECONDS = 10
"""AMQP's heartbeat: a server that is silent for three of them is given up."""
CONFIRM_SECONDS = 30.0
"""Without a confirmation for this long, a queue is broken: the broker itself answers, or the heartbeat would fail."""
CLOSE_SECONDS = 2.0


def routing_key(project_id: UUID, kind: str) -> str:
    """`PROJECT.TYPE`, so that a program can be given the events of one project and no other."""
    return f"{project_id}.{kind}"


class EventsExchange:
    """A separate connection, made at the first batch and again after each failure."""

    def __init__(self, url: str, name: str) -> None:
        self._url = str(URL(with_one_host(url)).update_query(heartbeat=HEARTBEAT_SECONDS))
        self._name = f"{name} events"
        self._account = account_of(url)
        self._connection: AbstractConnection | None = None
        self._channel: AbstractChannel | None = None

    async def publish(self, project_id: UUID, events: Sequence[Mapping[str, Any]]) -> Collection[int]:
        """Returns the positions of the events that a queue did not take: the broker said so, or did not confirm them
        within 30 s. During an alarm of the broker it waits, however long that lasts.

        Raises OSError or AMQPError if the broker is away or refuses the account; then any of the events may have
        arrived."""
        try:
            channel = await self._open()
            tasks = [asyncio.ensure_future(self._one(channel, project_id, event)) for event in events]
            try:
                await self._wait(tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        except BaseException:
            await self.close()
            raise
        if any(task.cancelled() for task in tasks):  # not confirmed in time; a late confirmation is of no use
            await self.close()
        taken = (not task.cancelled() and task.result() for task in tasks)
        return {int(event["position"]) for event, is_taken in zip(events, taken, strict=True) if not is_taken}

    async def close(self) -> None:
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            with suppress(Exception):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await connection.close()

    async def _open(self) -> AbstractChannel:
        if self._channel is None:
            self._connection = await broker.connect(self._url, timeout_seconds=CONNECT_SECONDS, name=self._name)
            channel = await self._connection.channel(publisher_confirms=True)
            self._channel = await channel.get_underlay_channel()
        return self._channel

    async def _one(self, channel: AbstractChannel, project_id: UUID, event: Mapping[str, Any]) -> bool:
        """Whether the broker took it. False: a queue refused it, which happens to be full and drops nothing."""
        message = aio_pika.Message(
            orjson.dumps(event),
            content_type="application/json",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            message_id=event["id"],
            type=event["type"],
            user_id=self._account,
        )
        try:
            await channel.basic_publish(
                message.body,
                exchange=topology.EVENTS_EXCHANGE,
                routing_key=routing_key(project_id, event["type"]),
                properties=message.properties,
                wait=False,
            )
        except DeliveryError:
            return False
        return True

    async def _wait(self, tasks: Sequence["asyncio.Future[bool]"]) -> None:
        """Until each is confirmed or refused, or nothing was for 30 s. Raises the first other error."""
        pending: Collection[asyncio.Future[bool]] = tasks
        while pending:
            done, pending = await asyncio.wait(pending, timeout=CONFIRM_SECONDS, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                if task.cancelled():
                    raise ConnectionError("the connection to the broker was closed")
                task.result()
            if not done and not await self._is_blocked():
                return

    async def _is_blocked(self) -> bool:
        """Whether the broker takes no messages now, because of a memory or disk alarm."""
        transport = self._connection.transport if self._connection is not None else None
        if transport is None:
            return False
        try:
            async with asyncio.timeout(0):
                await transport.ready()
        except TimeoutError:
            return True
        return False

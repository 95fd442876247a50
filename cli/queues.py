"""Queues through the account that may change them: depths, purging, and dead messages."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import aio_pika
import aio_pika.abc

from cli.access import broker_errors
from shared import broker, queues, topology
from shared.errors import DataError
from shared.events import EVENTS
from shared.queues import NAMES, Depth
from shared.reception import Refused, RefusedEventError, account_of, read

CONNECT_SECONDS = 15.0
DEPTHS_SECONDS = 20.0
CLIENT = "vashsender"


@dataclass(frozen=True, slots=True)
class DeadMessage:
    """A message in `dead`, which no service could handle."""

    #: The queue it came from.
    queue: str
    #: RabbitMQ's word for why it is here, such as `delivery_limit`; `refused` if its reader put it here.
    reason: str
    #: Its routing key.
    event: str
    died_at: datetime | None
    body: str
    #: What is wrong with it; empty if it can be read.
    why: str


async def depths(url: str) -> Sequence[Depth]:
    """The depth of every queue of the topology. Raises UnavailableError."""
    with broker_errors():
        async with asyncio.timeout(DEPTHS_SECONDS):
            return await queues.depths(url, CLIENT)


async def purge(url: str, name: str) -> int:
    """Drops all waiting messages of a queue and returns how many. Raises DataError if the queue is not ours."""
    async with _connected(url) as connection:
        queue = await _queue(connection, name)
        return int((await queue.purge()).message_count or 0)


async def dead(url: str, limit: int) -> list[DeadMessage]:
    """The oldest dead messages. They stay in the queue."""
    async with _connected(url) as connection:
        queue = await _queue(connection, topology.DEAD)
        # They are not acknowledged, so closing the connection puts them back in order.
        return [_shown(message) async for message in _messages(queue, limit)]


async def replay(url: str, limit: int) -> int:
    """Publishes dead messages again with their routing key, removes them, and returns how many. Safe to repeat: a
    stale ticket does nothing. Messages that die again meanwhile stay in `dead`."""
    async with _connected(url) as connection:
        channel = await connection.channel(publisher_confirms=True)
        exchange = await channel.get_exchange(topology.EXCHANGE)
        queue = await _queue(connection, topology.DEAD)
        count = 0
        async for message in _messages(queue, min(limit, int(queue.declaration_result.message_count or 0))):
            again = aio_pika.Message(
                message.body,
                content_type=message.content_type,
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                message_id=message.message_id,
                correlation_id=message.correlation_id,
                user_id=account_of(url),
            )
            await exchange.publish(again, _routing_key(message), mandatory=True)
            await message.ack()
            count += 1
        return count


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[aio_pika.abc.AbstractConnection]:
    with broker_errors():
        connection = await broker.connect(url, timeout_seconds=CONNECT_SECONDS)
        async with connection:
            yield connection


async def _queue(connection: aio_pika.abc.AbstractConnection, name: str) -> aio_pika.abc.AbstractQueue:
    if name not in NAMES:
        raise DataError(f"there is no queue {name!r}. The queues are: {', '.join(NAMES)}")
    channel = await connection.channel()
    return await channel.declare_queue(name, passive=True)


async def _messages(
    queue: aio_pika.abc.AbstractQueue, limit: int
) -> AsyncIterator[aio_pika.abc.AbstractIncomingMessage]:
    for _ in range(limit):
        message = await queue.get(no_ack=False, fail=False)
        if message is None:
            return
        yield message


def _death(message: aio_pika.abc.AbstractIncomingMessage) -> dict[str, Any]:
    deaths: Sequence[dict[str, Any]] = message.headers.get("x-death") or [{}]  # type: ignore[assignment]
    return deaths[0]


def _routing_key(message: aio_pika.abc.AbstractIncomingMessage) -> str:
    if (refused := Refused.of(message.headers)) is not None:
        return refused.event
    keys: Sequence[str] = _death(message).get("routing-keys") or [message.routing_key or ""]
    return str(keys[0])


def _shown(message: aio_pika.abc.AbstractIncomingMessage) -> DeadMessage:
    if (refused := Refused.of(message.headers)) is not None:
        by = f" (published by {refused.account})" if refused.account else ""
        body = message.body.decode("utf-8", "replace")
        return DeadMessage(refused.queue, "refused", refused.event, message.timestamp, body, f"{refused.reason}{by}")
    death = _death(message)
    return DeadMessage(
        queue=str(death.get("queue", "")),
        reason=str(death.get("reason", "")),
        event=_routing_key(message),
        died_at=death.get("time"),
        body=message.body.decode("utf-8", "replace"),
        why=_why(_routing_key(message), message.body),
    )


def _why(routing_key: str, body: bytes) -> str:
    event = next((event for event in EVENTS if routing_key == event.ROUTING_KEY), None)
    if event is None:
        return "no event has this routing key"
    try:
        read(event, body)
    except RefusedEventError as error:
        return str(error)
    return ""

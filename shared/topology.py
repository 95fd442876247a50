"""Exchanges, queues and bindings. They are declared in a separate step, so services need no right to configure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aio_pika
from aio_pika import ExchangeType
from aio_pika.abc import AbstractConnection, AbstractQueue

from shared import broker, events

EXCHANGE = "vashsender"
DEAD_EXCHANGE = "vashsender.dead"
EVENTS_EXCHANGE = "vashsender.events"
"""The events of projects, for programs outside. No queue of the services is bound to it."""
CONSUMER_QUEUES = "events."
"""What the names of the queues of such programs begin with; a policy limits queues with such names."""
EVENTS_KEPT = 1_000_000
EVENTS_KEPT_BYTES = 1_000_000_000
"""The most that one queue of a program outside may hold; beyond either, the oldest messages are dropped."""
DEAD = "dead"
CAMPAIGNS = "campaigns"
EMAIL = "email"
DEFAULT = "default"
HEARTBEATS = "heartbeats"
#: The routing key of a refused event that its reader keeps in `dead`, because its queue has no dead-letter exchange.
REFUSED_KEY = "event.refused"

DELIVERY_LIMIT = 5
HEARTBEATS_KEPT = 10_000
HEARTBEAT_TTL_MS = 60_000
DEAD_KEPT = 100_000
#: RabbitMQ 4.0 and later limit deliveries by default; -1 turns that off. Earlier versions read -1 as a limit of 0.
UNLIMITED = -1
LIMITED_SINCE = 4


@dataclass(frozen=True, slots=True)
class Queue:
    """A durable quorum queue and the routing keys bound to it."""

    name: str
    routing_keys: tuple[str, ...]
    arguments: Mapping[str, Any] = field(default_factory=lambda: {"x-dead-letter-exchange": DEAD_EXCHANGE})

    @property
    def has_dead_letters(self) -> bool:
        """Whether the broker moves messages to `dead` that were delivered too often."""
        return "x-dead-letter-exchange" in self.arguments


QUEUES = (
    Queue(CAMPAIGNS, (events.CampaignRequested.ROUTING_KEY,)),
    Queue(EMAIL, (events.BatchReleased.ROUTING_KEY,)),
    Queue(
        DEFAULT,
        (
            events.BatchFinished.ROUTING_KEY,
            events.BatchRequeued.ROUTING_KEY,
            events.CampaignFinished.ROUTING_KEY,
        ),
    ),
    Queue(
        HEARTBEATS,
        (events.SenderHeartbeat.ROUTING_KEY,),
        # No dead-letter exchange: old heartbeats would fill `dead`. Refused ones go there by REFUSED_KEY.
        {"x-single-active-consumer": True, "x-max-length": HEARTBEATS_KEPT, "x-message-ttl": HEARTBEAT_TTL_MS},
    ),
)


WITHOUT_DEAD_LETTERS = frozenset(queue.name for queue in QUEUES if not queue.has_dead_letters)


async def declare(url: str, *, timeout_seconds: float = 30.0) -> None:
    """Declares everything. Safe to repeat. Raises aio-pika's errors, such as ChannelPreconditionFailed if a queue
    exists with other arguments."""
    connection = await broker.connect(url, timeout_seconds=timeout_seconds)
    async with connection:
        channel = await connection.channel()
        exchange = await channel.declare_exchange(EXCHANGE, ExchangeType.TOPIC, durable=True)
        await channel.declare_exchange(EVENTS_EXCHANGE, ExchangeType.TOPIC, durable=True)
        dead = await channel.declare_exchange(DEAD_EXCHANGE, ExchangeType.FANOUT, durable=True)
        dead_queue = await _declare_dead(connection)
        await dead_queue.bind(dead)
        await dead_queue.bind(exchange, REFUSED_KEY)
        for queue in QUEUES:
            declared = await channel.declare_queue(
                queue.name,
                durable=True,
                arguments={
                    "x-queue-type": "quorum",
                    "x-delivery-limit": DELIVERY_LIMIT,
                    **queue.arguments,
                },
            )
            for routing_key in queue.routing_keys:
                await declared.bind(exchange, routing_key)


async def _declare_dead(connection: AbstractConnection) -> AbstractQueue:
    """Declares `dead` without a delivery limit, because looking at its messages counts as a delivery. If an older
    release or broker declared it with a limit, it is declared again once it is empty."""
    arguments: dict[str, Any] = {"x-queue-type": "quorum", "x-max-length": DEAD_KEPT}
    if major_version(connection) >= LIMITED_SINCE:
        arguments["x-delivery-limit"] = UNLIMITED
    channel = await connection.channel()
    try:
        return await channel.declare_queue(DEAD, durable=True, arguments=arguments)
    except aio_pika.exceptions.ChannelPreconditionFailed:
        channel = await connection.channel()
        queue = await channel.declare_queue(DEAD, passive=True)
        if queue.declaration_result.message_count:
            return queue
        await queue.delete(if_unused=False, if_empty=False)  # quorum queues support neither condition
        return await channel.declare_queue(DEAD, durable=True, arguments=arguments)


def major_version(connection: AbstractConnection) -> int:
    """The broker's major version, such as 4."""
    assert connection.transport is not None
    version: Any = connection.transport.connection.server_properties.get("version", "0")
    text = version.decode() if isinstance(version, bytes) else str(version)
    return int(text.partition(".")[0])


async def check(url: str, *, timeout_seconds: float = 10.0) -> list[str]:
    """The names of the missing queues and exchanges."""
    missing = []
    connection = await broker.connect(url, timeout_seconds=timeout_seconds)
    async with connection:
        for name in (EXCHANGE, DEAD_EXCHANGE, EVENTS_EXCHANGE):
            channel = await connection.channel()
            try:
                await channel.get_exchange(name)
            except aio_pika.exceptions.ChannelClosed:
                missing.append(name)
        for name in (*(queue.name for queue in QUEUES), DEAD):
            channel = await connection.channel()
            try:
                await channel.declare_queue(name, passive=True)
            except aio_pika.exceptions.ChannelClosed:
                missing.append(name)
    return missing

"""How deep the queues are and who consumes them. Passive declarations: no right to configure is needed."""

from collections.abc import Sequence
from dataclasses import dataclass

import aio_pika
from aio_pika.abc import AbstractConnection

from shared import broker, topology

NAMES = (*(queue.name for queue in topology.QUEUES), topology.DEAD)


@dataclass(frozen=True, slots=True)
class Depth:
    """A queue as the broker sees it."""

    name: str
    exists: bool = False
    #: Messages that wait for a consumer; those a consumer holds are not counted.
    messages: int = 0
    consumers: int = 0


async def depths(url: str, client: str) -> Sequence[Depth]:
    """Every queue of the topology, asked over a new connection that the broker shows as `client`.

    Raises OSError or AMQPError if the broker cannot be asked."""
    connection = await broker.connect(url, name=client)
    async with connection:
        return [await _depth(connection, name) for name in NAMES]


async def _depth(connection: AbstractConnection, name: str) -> Depth:
    channel = await connection.channel()
    try:
        queue = await channel.declare_queue(name, passive=True)
    except aio_pika.exceptions.ChannelClosed:
        return Depth(name)
    result = queue.declaration_result
    await channel.close()
    return Depth(name, True, result.message_count or 0, result.consumer_count or 0)

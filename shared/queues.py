"""How deep the queues are and who consumes them, asked by passive declaration: no right to configure is needed."""

from collections.abc import Sequence
from dataclasses import dataclass

import aio_pika
from aio_pika.abc import AbstractConnection

from shared import topology

NAMES = (*(queue.name for queue in topology.QUEUES), topology.DEAD)


@dataclass(frozen=True, slots=True)
class Depth:
    """`messages` wait to be delivered; what consumers hold is not counted."""

    name: str
    exists: bool = False
    messages: int = 0
    consumers: int = 0


async def depths(url: str, client: str) -> Sequence[Depth]:
    """Every queue there should be, over a connection of its own that the broker knows as `client`.

    Raises OSError or AMQPError where the broker cannot be asked; bound it in time."""
    connection = await aio_pika.connect(url, client_properties={"connection_name": client})
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

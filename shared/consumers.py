"""Notices a consumer that the broker does not serve, and connects again.

A consumer may stay registered and get nothing. After the death of a queue's leader, RabbitMQ can count events as
delivered that never came; they use up the prefetch until the connection ends (rabbitmq-server, issue 15473). A channel
that could not be opened again has no consumer at all. Both look alike from here: events wait in the queue, this
consumer has room for one, and none comes.
"""

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from shared import logs
from shared.metrics import Metrics

LOOK_SECONDS = 5.0
PATIENCE_SECONDS = 4.0  # less than the time between two looks, so the second one decides
MOST_PATIENCE_SECONDS = 300.0  # patience doubles each time: connecting again takes events from their handlers

log = logs.get()


class Consuming(Protocol):
    """The connection that consumes."""

    @property
    def transport(self) -> asyncio.WriteTransport | None:
        """What it uses now; None before the first connection."""

    async def count_ready(self, queue: str) -> int:
        """Events in a queue that are with no consumer. Raises TimeoutError if no answer comes, another error if it
        cannot be known now."""

    async def leave(self, transport: asyncio.WriteTransport | None) -> None:
        """Connects again if this transport is still in use."""


@dataclass(slots=True, eq=False)
class Consumer:
    """What is known here of the consumer of one queue."""

    queue: str
    #: How many events it may have at once.
    prefetch: int
    #: Events that are being handled.
    handled_now: int = 0
    #: When events were first seen to wait for it while none came, by the monotonic clock. None: they do not wait.
    waits_since: float | None = None
    #: The transport at the last look. A new one has not had the time to bring anything.
    transport: asyncio.WriteTransport | None = None
    #: How often its connection was made again because of it, since an event came.
    retries: int = 0

    @contextmanager
    def handling(self) -> Iterator[None]:
        """While one event is handled."""
        self.handled_now += 1
        self.waits_since, self.retries = None, 0
        try:
            yield
        finally:
            self.handled_now -= 1

    def judge(self, ready: int, transport: asyncio.WriteTransport | None) -> bool:
        """Whether it is served on this transport, if so many events are ready in its queue."""
        if transport is not self.transport:
            self.waits_since, self.transport = None, transport
        if not ready or self.handled_now >= self.prefetch:
            self.waits_since = None
            return True
        now = time.monotonic()
        if self.waits_since is None:
            self.waits_since = now
        patience: float = min(PATIENCE_SECONDS * 2**self.retries, MOST_PATIENCE_SECONDS)
        return now - self.waits_since < patience

    def retry(self) -> None:
        """Its connection is made again because of it."""
        self.waits_since = None
        self.retries += 1


async def watch(connection: Consuming, consumers: Sequence[Consumer], metrics: Metrics) -> None:
    """Looks at the consumers of a connection from time to time, until cancelled."""
    while True:
        await asyncio.sleep(LOOK_SECONDS * random.uniform(0.9, 1.1))
        await look(connection, consumers, metrics)


async def look(connection: Consuming, consumers: Sequence[Consumer], metrics: Metrics) -> None:
    """Makes the connection again if one of its consumers is not served, or the broker does not answer. Never raises."""
    transport = connection.transport
    for consumer in consumers:
        try:
            ready = await connection.count_ready(consumer.queue)
        except TimeoutError:
            log.warning("broker.silent", queue=consumer.queue)
        except Exception as error:  # noqa: BLE001 - it cannot be known now; the next look asks again
            log.info("consumer.not_seen", queue=consumer.queue, reason=str(error) or type(error).__name__)
            continue
        else:
            if consumer.judge(ready, transport):
                continue
            log.warning("consumer.not_served", queue=consumer.queue, ready=ready)
            metrics.unserved.labels(consumer.queue).inc()
            consumer.retry()
        await connection.leave(transport)
        return

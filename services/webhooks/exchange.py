"""The exchange for the events of projects: publishes a batch in order and waits until the broker has confirmed it."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

from aio_pika.abc import AbstractConnection
from aiormq.abc import ChannelFrame
from aiormq.channel import Channel
from aiormq.exceptions import DeliveryError
from yarl import URL

from services.webhooks.frames import Frames
from shared import broker
from shared.broker_url import with_one_host
from shared.reception import account_of

CONNECT_SECONDS = 10.0
HEARTBEAT_SECONDS = 10
"""AMQP's heartbeat: a server that is silent for three of them is given up."""
CONFIRM_SECONDS = 30.0
"""Without a confirmation for this long, a queue is broken: the broker itself answers, or the heartbeat would fail."""
CLOSE_SECONDS = 2.0
WRITTEN_AT_ONCE = 500
"""Messages that are made without a pause for other work."""

Confirmation = asyncio.Future[Any]


class NotPublishedError(Exception):
    """The broker is away, or refuses the account. Any of the events may have arrived."""


class EventsExchange:
    """A separate connection, made at the first batch and again after each failure."""

    def __init__(self, url: str, name: str) -> None:
        self._url = str(URL(with_one_host(url)).update_query(heartbeat=HEARTBEAT_SECONDS))
        self._name = f"{name} events"
        self._account = account_of(url)
        self._connection: AbstractConnection | None = None
        self._channel: Channel | None = None

    async def publish(self, project_id: UUID, events: Sequence[Mapping[str, Any]]) -> Collection[int]:
        """Returns the positions of the events that a queue did not take: the broker said so, or did not confirm them
        within 30 s. During an alarm of the broker it waits, however long that lasts. Raises NotPublishedError."""
        try:
            return await self._publish(project_id, events)
        except Exception as error:
            await self.close()
            raise NotPublishedError(str(error) or type(error).__name__) from error
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            with suppress(Exception), broker.broken_is_an_error():
                async with asyncio.timeout(CLOSE_SECONDS):
                    await connection.close()

    async def _publish(self, project_id: UUID, events: Sequence[Mapping[str, Any]]) -> Collection[int]:
        channel = await self._open()
        confirmations: list[Confirmation] = []
        try:
            frames = Frames(channel.number, channel.max_content_size, project_id, self._account)
            for start in range(0, len(events), WRITTEN_AT_ONCE):
                part = events[start : start + WRITTEN_AT_ONCE]
                confirmations += await _write(channel, frames.of(part), len(part))
                await asyncio.sleep(0)
            await self._wait(confirmations)
        finally:
            for one in confirmations:
                one.cancel()
            taken = [not one.cancelled() and one.exception() is None for one in confirmations]
        if not all(taken):
            # Late confirmations must not meet another batch, and a channel may refuse what another one takes, if its
            # first event for a queue came while that queue had no leader.
            await self.close()
        return {int(event["position"]) for event, is_taken in zip(events, taken, strict=True) if not is_taken}

    async def _open(self) -> Channel:
        if self._channel is None:
            self._connection = await broker.connect(self._url, timeout_seconds=CONNECT_SECONDS, name=self._name)
            channel = await self._connection.channel(publisher_confirms=True)
            underlay = await channel.get_underlay_channel()
            assert isinstance(underlay, Channel)
            self._channel = underlay
        return self._channel

    async def _wait(self, confirmations: Sequence[Confirmation]) -> None:
        """Until each is confirmed or refused, or none was for 30 s. Raises the first other error: the end of the
        connection ends all of them."""
        pending: Collection[Confirmation] = confirmations
        while pending:
            before = len(pending)
            done, pending = await asyncio.wait(pending, timeout=CONFIRM_SECONDS)
            for one in done:
                if one.cancelled():
                    raise ConnectionError("the connection to the broker was closed")
                error = one.exception()
                if error is not None and not isinstance(error, DeliveryError):
                    raise error
            if len(pending) == before and not await self._is_blocked():
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


async def _write(channel: Channel, frames: bytes, messages: int) -> Sequence[Confirmation]:
    """Writes messages at once, and returns a future for the confirmation of each. `basic_publish` does the same for one
    message, and takes several times as long for 500."""
    async with channel.lock:
        confirmations = [channel.create_future() for _ in range(messages)]
        for confirmation in confirmations:
            channel.delivery_tag += 1
            channel.confirmations[channel.delivery_tag] = confirmation
        await channel.write_queue.put(ChannelFrame(payload=frames, should_close=False))
        return confirmations

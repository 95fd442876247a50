"""When a consumer counts as not served, and what is done then."""

import asyncio
import time
from itertools import pairwise
from unittest.mock import Mock

import pytest
from aio_pika.exceptions import ChannelNotFoundEntity

from shared.consumers import MOST_PATIENCE_SECONDS, PATIENCE_SECONDS, Consumer, look
from shared.metrics import Metrics

METRICS = Metrics("test")


class Connection:
    """Answers with a number of ready events, or with an error."""

    def __init__(self) -> None:
        self.transport = Mock(spec=asyncio.WriteTransport)
        self.answers: dict[str, int | Exception] = {"email": 0, "default": 0}
        self.left: list[object] = []

    async def count_ready(self, queue: str) -> int:
        answer = self.answers[queue]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def leave(self, transport: asyncio.WriteTransport | None) -> None:
        self.left.append(transport)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    return clock


@pytest.fixture
def connection() -> Connection:
    return Connection()


async def test_events_that_wait_at_two_looks_while_none_comes_make_it_connect_again(
    connection: Connection, clock: Clock
) -> None:
    consumers = [Consumer("default", 1), Consumer("email", 1)]
    connection.answers["email"] = 3
    await look(connection, consumers, METRICS)
    assert not connection.left
    clock.now += PATIENCE_SECONDS
    await look(connection, consumers, METRICS)
    assert connection.left == [connection.transport]


async def test_an_event_that_comes_between_two_looks_shows_that_it_is_served(
    connection: Connection, clock: Clock
) -> None:
    consumer = Consumer("email", 1)
    connection.answers["email"] = 3
    for _ in range(3):
        await look(connection, [consumer], METRICS)
        clock.now += PATIENCE_SECONDS
        with consumer.handling():
            pass
    assert not connection.left


async def test_a_queue_that_was_empty_meanwhile_is_served(connection: Connection, clock: Clock) -> None:
    consumer = Consumer("email", 1)
    for ready in (3, 0, 3):
        connection.answers["email"] = ready
        await look(connection, [consumer], METRICS)
        clock.now += PATIENCE_SECONDS
    assert not connection.left


async def test_a_consumer_with_as_many_events_as_it_may_have_lets_others_wait(
    connection: Connection, clock: Clock
) -> None:
    consumer = Consumer("email", 2)
    connection.answers["email"] = 3
    with consumer.handling(), consumer.handling():
        for _ in range(3):
            await look(connection, [consumer], METRICS)
            clock.now += PATIENCE_SECONDS
    assert not connection.left
    with consumer.handling():  # it has room for one more
        await look(connection, [consumer], METRICS)
        clock.now += PATIENCE_SECONDS
        await look(connection, [consumer], METRICS)
    assert connection.left == [connection.transport]


async def test_a_new_connection_gets_time_to_bring_events(connection: Connection, clock: Clock) -> None:
    consumer = Consumer("email", 1)
    connection.answers["email"] = 3
    for _ in range(3):
        connection.transport = Mock(spec=asyncio.WriteTransport)
        await look(connection, [consumer], METRICS)
        clock.now += PATIENCE_SECONDS
    assert not connection.left


async def test_it_waits_twice_as_long_each_time_until_an_event_comes(connection: Connection, clock: Clock) -> None:
    """A queue with a single active consumer lets the others wait, and connecting again does not help them."""
    consumer = Consumer("email", 1)
    connection.answers["email"] = 3
    began = clock.now
    times = []
    while clock.now < began + 3000:
        left = len(connection.left)
        await look(connection, [consumer], METRICS)
        if len(connection.left) > left:
            times.append(clock.now)
        clock.now += 1
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert times[0] == began + PATIENCE_SECONDS
    assert gaps[:3] == [2 * PATIENCE_SECONDS + 1, 4 * PATIENCE_SECONDS + 1, 8 * PATIENCE_SECONDS + 1]
    assert gaps[-1] == MOST_PATIENCE_SECONDS + 1
    with consumer.handling():
        pass
    began, left = clock.now, len(connection.left)
    while len(connection.left) == left:
        clock.now += 1
        await look(connection, [consumer], METRICS)
    assert clock.now - began == PATIENCE_SECONDS + 1


async def test_a_broker_that_does_not_answer_is_left_at_once(connection: Connection) -> None:
    connection.answers["email"] = TimeoutError()
    await look(connection, [Consumer("email", 1), Consumer("default", 1)], METRICS)
    assert connection.left == [connection.transport]


async def test_a_queue_that_cannot_be_seen_is_not_judged(connection: Connection, clock: Clock) -> None:
    connection.answers = {"email": ChannelNotFoundEntity("gone"), "default": 1}
    for _ in range(2):
        await look(connection, [Consumer("email", 1)], METRICS)
        clock.now += PATIENCE_SECONDS
    assert not connection.left

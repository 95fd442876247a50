"""How much of what has arrived one connection parses before others have their turn."""

import asyncio
from typing import Any

import pytest
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from shared.http_connection import PARSED_BYTES, HttpLimits, LimitedConfig, LimitedConnection


class Transport(asyncio.Transport):
    """Nothing is behind it. Notes whether more is read."""

    is_reading_now = True

    def pause_reading(self) -> None:
        self.is_reading_now = False

    def resume_reading(self) -> None:
        self.is_reading_now = True

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0


async def no_app(scope: Any, receive: Any, send: Any) -> None:
    """Never answers."""
    await asyncio.Event().wait()


@pytest.fixture
async def connection() -> LimitedConnection:
    config = LimitedConfig(no_app, ws="none", lifespan="off", log_config=None)
    config.limits = HttpLimits(10, 10, 60.0, 60.0)
    config.load()
    connection = LimitedConnection(config, ServerState(), {})
    connection.connection_made(Transport())
    return connection


async def test_what_arrives_at_once_is_parsed_in_turns(
    connection: LimitedConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[int] = []
    monkeypatch.setattr(H11Protocol, "data_received", lambda _self, data: parsed.append(len(data)))
    connection.data_received(b"x" * (3 * PARSED_BYTES + 1))
    connection.data_received(b"y")
    turns = []
    for _ in range(4):
        assert isinstance(connection.transport, Transport)
        turns.append((list(parsed), connection.transport.is_reading_now))
        await asyncio.sleep(0)
    whole = PARSED_BYTES
    assert turns == [
        ([whole], False),
        ([whole] * 2, False),
        ([whole] * 3, False),
        ([whole] * 3 + [2], True),
    ]


async def test_a_body_of_known_length_is_parsed_whole(
    connection: LimitedConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection.data_received(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
    parsed: list[int] = []
    monkeypatch.setattr(H11Protocol, "data_received", lambda _self, data: parsed.append(len(data)))
    connection.data_received(b"x" * 100_000)
    assert parsed == [100_000]
    for task in connection.tasks:
        task.cancel()

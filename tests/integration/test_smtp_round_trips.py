"""Round trips per email, counted at the server."""

import asyncio

import pytest

from tests.support.smtp.configs import relay_config
from tests.support.smtp.mail import delivering, letters
from tests.support.smtp.model import Server

EMAILS = 50
GREETING_TURNS = 2  # EHLO, and the first envelope; the banner answers nothing
QUIT_TURNS = 1


class CountingServer(asyncio.Protocol):
    """Answers everything that has arrived, and counts how often it does."""

    def __init__(self, extension: str) -> None:
        self.server = Server([])
        self.turns = 0
        self._extension = extension

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(b"220 counting\r\n")

    def data_received(self, data: bytes) -> None:
        self.turns += 1
        if data.startswith(b"EHLO"):
            self._transport.write(f"250-counting\r\n250 {self._extension}\r\n".encode())
        else:
            self._transport.write(self.server.hear(data))


@pytest.mark.parametrize(("extension", "turns_per_email"), [("PIPELINING", 1), ("8BITMIME", 4)])
async def test_round_trips_per_email(extension: str, turns_per_email: int) -> None:
    counting = CountingServer(extension)
    server = await asyncio.get_running_loop().create_server(lambda: counting, "127.0.0.1", 0)
    relay = relay_config(server.sockets[0].getsockname()[1], "counting", connections=1)
    async with server, delivering(relay, letters(EMAILS)) as (_, box):
        await box.reported(EMAILS)
    assert len(counting.server.stored) == EMAILS
    greeting = GREETING_TURNS if turns_per_email == 1 else 1
    assert counting.turns <= EMAILS * turns_per_email + greeting + QUIT_TURNS

"""The proxy behaves like a network: it holds bytes back, loses them and resets connections, without notice."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support.proxy import LOOPBACK, Proxy

SILENCE_SECONDS = 0.2


@pytest.fixture
async def echo() -> AsyncIterator[asyncio.Server]:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                writer.write(line)
        writer.close()

    server = await asyncio.start_server(talk, LOOPBACK, 0)
    yield server
    server.close()


@pytest.fixture
def proxy(echo: asyncio.Server) -> Iterator[Proxy]:
    proxy = Proxy(echo.sockets[0].getsockname()[1])
    proxy.start()
    yield proxy
    proxy.stop()


async def say(streams: tuple[asyncio.StreamReader, asyncio.StreamWriter], line: bytes = b"hello\n") -> bytes:
    streams[1].write(line)
    async with asyncio.timeout(SILENCE_SECONDS):
        return await streams[0].readline()


async def test_bytes_pass_in_both_directions_and_a_close_is_passed_on(proxy: Proxy) -> None:
    streams = await asyncio.open_connection(LOOPBACK, proxy.port)
    assert await say(streams) == b"hello\n"
    assert proxy.connections == 1
    streams[1].write_eof()
    assert await streams[0].read() == b""
    streams[1].close()


@pytest.mark.parametrize(("requests", "answers"), [(True, False), (False, True), (True, True)])
async def test_bytes_held_back_arrive_when_the_link_is_restored(proxy: Proxy, requests: bool, answers: bool) -> None:
    streams = await asyncio.open_connection(LOOPBACK, proxy.port)
    await say(streams)
    proxy.cut(requests=requests, answers=answers)
    with pytest.raises(TimeoutError):
        await say(streams)
    newcomer = await asyncio.open_connection(LOOPBACK, proxy.port)
    with pytest.raises(TimeoutError):
        await say(newcomer)
    proxy.restore()
    async with asyncio.timeout(1):
        assert await streams[0].readline() == b"hello\n"
        assert await newcomer[0].readline() == b"hello\n"
    for _, writer in (streams, newcomer):
        writer.close()


async def test_a_reset_reaches_both_ends(proxy: Proxy) -> None:
    streams = await asyncio.open_connection(LOOPBACK, proxy.port)
    await say(streams)
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        await streams[0].readline()
    streams[1].close()
    again = await asyncio.open_connection(LOOPBACK, proxy.port)
    assert await say(again) == b"hello\n"
    again[1].close()


async def test_a_forgotten_connection_stays_silent_and_new_ones_work(proxy: Proxy) -> None:
    streams = await asyncio.open_connection(LOOPBACK, proxy.port)
    await say(streams)
    proxy.cut()
    proxy.forget()
    proxy.restore()
    with pytest.raises(TimeoutError):
        await say(streams)
    again = await asyncio.open_connection(LOOPBACK, proxy.port)
    assert await say(again) == b"hello\n"
    for _, writer in (streams, again):
        writer.close()

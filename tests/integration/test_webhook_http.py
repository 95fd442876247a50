"""The client of webhooks against real sockets: what strangers may try with it."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from services.webhooks.addresses import parse_networks
from services.webhooks.http import ANSWER_BYTES, READ_BYTES, Client, trusted
from tests.support.smtp.certificates import Authority
from tests.support.waiting import until

LOOPBACK = parse_networks("127.0.0.1/32")
SECONDS = 20.0
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server(answer: bytes | Handler) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server on loopback: its URL, and the heads of the requests it got."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or b"0")
                await reader.readexactly(length)
                heads.append(head)
                if isinstance(answer, bytes):
                    writer.write(answer)
                    await writer.drain()
                else:
                    await answer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}/hook", heads
    finally:
        listening.close()


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    client = Client(LOOPBACK, trusted(None), SECONDS)
    yield client
    await client.close()


async def test_a_post_arrives_and_connections_are_used_again(client: Client) -> None:
    async with server(b"HTTP/1.1 204 No Content\r\n\r\n") as (url, heads):
        for _ in range(3):
            answer = await client.post(url, {"webhook-id": "x"}, b"{}")
            assert (answer.status, answer.is_accepted, answer.error) == (204, True, "")
    assert all(b"webhook-id: x" in head for head in heads)
    assert heads[0].startswith(b"POST /hook HTTP/1.1")


async def test_redirects_are_not_followed(client: Client) -> None:
    async with server(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n") as (inner, heads):
        redirect = f"HTTP/1.1 307 Temporary Redirect\r\nlocation: {inner}\r\ncontent-length: 0\r\n\r\n"
        async with server(redirect.encode()) as (url, _):
            answer = await client.post(url, {}, b"{}")
    assert (answer.status, answer.is_accepted) == (307, False)
    assert heads == []


async def test_a_proxy_of_the_environment_is_not_used(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        server(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n") as (proxy, through_proxy),
        server(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n") as (url, heads),
    ):
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy)
        fresh = Client(LOOPBACK, trusted(None), SECONDS)
        assert (await fresh.post(url, {}, b"{}")).is_accepted
        await fresh.close()
    assert (len(heads), through_proxy) == (1, [])


async def test_an_endless_answer_is_cut(client: Client) -> None:
    async def endless(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 500 Oops\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"400\r\n" + b"x" * 1024 + b"\r\n")
            await writer.drain()

    async with server(endless) as (url, _):
        answer = await client.post(url, {}, b"{}")
    assert answer.status == 500
    assert len(answer.error) < ANSWER_BYTES


@pytest.mark.parametrize(
    "said", [b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 3, b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx"]
)
async def test_silence_ends_at_the_deadline_of_the_whole_post(said: bytes) -> None:
    async def silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await asyncio.Event().wait()

    impatient = Client(LOOPBACK, trusted(None), 0.3)
    async with server(silent) as (url, _):
        answer = await impatient.post(url, {}, b"{}")
    await impatient.close()
    assert (answer.status, answer.error) == (None, "no answer within 0.3 s")


@pytest.mark.parametrize(
    "said",
    [
        b"\x00\xff garbage \r\n\r\n",
        b"HTTP/1.1 two hundred\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 200_000 + b"\r\n\r\n",
    ],
)
async def test_nonsense_is_a_failure_and_no_error(client: Client, said: bytes) -> None:
    async def close(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await writer.drain()
        raise ConnectionError

    async with server(close) as (url, _):
        answer = await client.post(url, {}, b"{}")
    assert answer.status is None
    assert 0 < len(answer.error) <= 200


async def test_interim_answers_without_end_are_cut() -> None:
    """The parser takes them as fast as they come: without a bound they keep the process busy until the deadline."""

    async def chatter(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100)
            await writer.drain()

    patient = Client(LOOPBACK, trusted(None), 3600.0)
    async with server(chatter) as (url, _):
        answer = await asyncio.wait_for(patient.post(url, {}, b"{}"), 60)
    await patient.close()
    assert answer.status is None
    assert answer.error == f"the answer has more than {READ_BYTES} bytes"


async def test_control_characters_of_an_answer_are_not_kept(client: Client) -> None:
    async with server(b"HTTP/1.1 400 Bad\r\ncontent-length: 11\r\n\r\na\x00b\x1b[31m\r\nc") as (url, _):
        answer = await client.post(url, {}, b"{}")
    assert answer.error == "400 a b [31m c"


async def test_a_certificate_of_a_stranger_is_refused(client: Client, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    context = authority.certificate("localhost").server_context()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        await writer.drain()
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    port = listening.sockets[0].getsockname()[1]
    refused = await client.post(f"https://localhost:{port}/", {}, b"{}")
    known = Client(LOOPBACK, trusted(authority.ca_file), SECONDS)
    accepted = await known.post(f"https://localhost:{port}/", {}, b"{}")
    wrong_name = await known.post(f"https://127.0.0.1:{port}/", {}, b"{}")
    await known.close()
    listening.close()
    assert refused.status is None
    assert "certificate" in refused.error.lower()
    assert accepted.is_accepted
    assert wrong_name.status is None


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("120", 120.0), ("0", 0.0), ("9" * 19, 3600.0), ("9" * 4000, 0.0), ("-1", 0.0), ("Wed, 21 Oct 2026", 0.0)],
)
async def test_an_answer_says_when_to_try_again(client: Client, said: str, seconds: float) -> None:
    head = f"HTTP/1.1 429 Too Many Requests\r\nRetry-After: {said}\r\ncontent-length: 0\r\n\r\n"
    async with server(head.encode()) as (url, _):
        answer = await client.post(url, {}, b"{}")
    assert (answer.status, answer.retry_after) == (429, seconds)


@contextmanager
def silent_name_servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names under `silent.test` get no answer until the end; yields those that were looked up."""
    end, asked, ask = threading.Event(), list[str](), socket.getaddrinfo

    def lookup(host: str, *args: Any, **kwargs: Any) -> Any:
        if not host.endswith("silent.test"):
            return ask(host, *args, **kwargs)
        asked.append(host)
        end.wait(60)
        raise socket.gaierror(socket.EAI_AGAIN, "temporary failure")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    try:
        yield asked
    finally:
        end.set()


async def test_names_whose_servers_are_silent_delay_nobody_else(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with silent_name_servers(monkeypatch) as asked:
        async with server(b"HTTP/1.1 204 No Content\r\n\r\n") as (url, _), asyncio.TaskGroup() as group:
            dead = [group.create_task(client.post(f"http://{n}.silent.test/", {}, b"{}")) for n in range(200)]
            await until(lambda: len(asked) >= len(dead))
            assert (await client.post(url, {}, b"{}")).is_accepted
            assert not any(one.done() for one in dead)
            for one in dead:
                one.cancel()


async def test_a_name_that_is_tried_again_takes_no_second_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    impatient = Client(LOOPBACK, trusted(None), 0.05)
    with silent_name_servers(monkeypatch) as asked:
        for _ in range(5):
            answer = await impatient.post("http://one.silent.test/", {}, b"{}")
            assert answer.error == "no answer within 0.05 s"
    await impatient.close()
    assert asked == ["one.silent.test"]

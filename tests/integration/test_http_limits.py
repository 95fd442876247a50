"""Clients that keep a connection open without a request, send half of one, or do not read: on a real process."""

import asyncio
import socket
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest

from cli.local.ports import free_port
from shared.ledger import outbox
from shared.ledger.database import Ledger
from shared.ledger.facts import Fact, FactType
from shared.ledger.models import DEFAULT_PROJECT
from tests.support.processes import ServiceProcess
from tests.support.system import new_key
from tests.support.waiting import until

ServiceFactory = Callable[..., ServiceProcess]
LIMITS = {
    "VASHSENDER_HTTP_CONNECTIONS": "12",
    "VASHSENDER_HTTP_CONNECTIONS_PER_ADDRESS": "8",
    "VASHSENDER_HTTP_HEADER_SECONDS": "1",
    "VASHSENDER_HTTP_WRITE_SECONDS": "1",
    "VASHSENDER_HTTP_BODY_SECONDS": "1",
}
HALVES = {
    "silent": b"",
    "half a header": b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ",
    "half a body that is not read": b"POST /v1/campaigns HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{",
    "half a form": (
        b"POST /sign-in HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\n\r\nkey="
    ),
}


async def served(factory: ServiceFactory, service: str, folder: Path, database_url: str) -> ServiceProcess:
    process = factory(
        service,
        {
            "VASHSENDER_DATABASE_URL": database_url,
            "VASHSENDER_AMQP_URL": f"amqp://guest:guest@127.0.0.1:{free_port()}/",
            "VASHSENDER_VAR_DIR": str(folder),
            **LIMITS,
        },
    )
    await process.wait_health("/health/live", 200)
    return process


@pytest.fixture
async def api(tmp_path: Path, sqlite_url: str, service_process: ServiceFactory) -> ServiceProcess:
    return await served(service_process, "api", tmp_path, sqlite_url)


def connected(process: ServiceProcess, source: str = "127.0.0.1") -> socket.socket:
    port = httpx.URL(process.http_url).port
    assert port is not None
    return socket.create_connection(("127.0.0.1", port), timeout=15, source_address=(source, 0))


def answer_of(client: socket.socket) -> bytes:
    """All that arrives until the server ends the connection, in whatever way."""
    found = b""
    try:
        while data := client.recv(65_536):
            found += data
    except ConnectionResetError:
        pass
    return found


@pytest.mark.parametrize("half", HALVES)
async def test_an_unfinished_request_is_given_up(api: ServiceProcess, half: str) -> None:
    with connected(api) as client:
        client.sendall(HALVES[half])
        began = time.monotonic()
        answer = await asyncio.to_thread(answer_of, client)
    assert 0.5 < time.monotonic() - began < 10
    assert answer == b"" or answer.startswith((b"HTTP/1.1 401", b"HTTP/1.1 408")), answer


async def test_a_client_that_drips_a_header_is_given_up(api: ServiceProcess) -> None:
    def drip() -> None:
        with connected(api) as client:
            client.sendall(b"GET / HTTP/1.1\r\nX-Slow: ")
            while True:
                client.sendall(b"a")
                time.sleep(0.1)

    began = time.monotonic()
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        await asyncio.to_thread(drip)
    assert time.monotonic() - began < 10


async def test_every_service_gives_up_half_a_request(
    tmp_path: Path, sqlite_url: str, service_process: ServiceFactory
) -> None:
    watchdog = await served(service_process, "watchdog", tmp_path, sqlite_url)
    with connected(watchdog) as client:
        client.sendall(HALVES["half a header"])
        assert await asyncio.to_thread(answer_of, client) == b""


async def test_connections_are_capped_per_address_and_in_all(api: ServiceProcess) -> None:
    held = [connected(api) for _ in range(8)]
    with connected(api) as one_more:
        assert (await asyncio.to_thread(answer_of, one_more)).startswith(b"HTTP/1.1 503")
    held += [connected(api, "127.0.0.2") for _ in range(4)]
    with connected(api, "127.0.0.3") as stranger:
        assert (await asyncio.to_thread(answer_of, stranger)).startswith(b"HTTP/1.1 503")
    for client in held:
        client.close()
    await api.wait_health("/health/live", 200)


async def test_a_connection_that_is_used_stays(api: ServiceProcess) -> None:
    async with httpx.AsyncClient(base_url=api.http_url, trust_env=False) as http:
        for _ in range(5):
            assert (await http.get("/health/live")).status_code == 200
            await asyncio.sleep(0.4)


async def test_a_client_that_does_not_read_is_let_go(api: ServiceProcess) -> None:
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(15)
        client.connect(("127.0.0.1", httpx.URL(api.http_url).port))
        # More answers than the buffers of both sides hold.
        request = b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"

        def flood() -> None:
            while True:
                client.sendall(request * 10)

        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            await asyncio.to_thread(flood)


def served_ports(process: psutil.Process) -> set[int]:
    """The clients' ports of the connections that the process has open."""
    return {found.raddr.port for found in process.net_connections("tcp") if found.raddr}


async def tell(sqlite_url: str, number: int) -> None:
    """Events with positions, of 600 bytes each."""
    ledger = Ledger(sqlite_url)
    facts = [Fact(FactType.RECIPIENT_FAILED, details={"number": n, "reply": "x" * 400}) for n in range(number)]
    async with ledger.write() as connection:
        await outbox.tell(connection, DEFAULT_PROJECT, facts)
    assert await outbox.place(ledger) == number
    await ledger.close()


async def test_readers_of_event_streams_that_stop_reading_hold_nothing(api: ServiceProcess, sqlite_url: str) -> None:
    """They are cut, and until then neither their events nor a database connection is kept for them."""
    key = await new_key(sqlite_url)
    headers = {"Authorization": f"Bearer {key}"}
    request = f"GET /v1/events/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key}\r\n\r\n".encode()
    process = psutil.Process(api.pid)
    async with httpx.AsyncClient(base_url=api.http_url, headers=headers, trust_env=False, timeout=30) as http:
        assert (await http.put("/v1/events/settings", json={"enabled": True})).status_code == 200
        await tell(sqlite_url, 20_000)
        assert len((await http.get("/v1/events?limit=1000")).json()["data"]) == 1000
        before = process.memory_info().rss
        stalled = [socket.socket() for _ in range(6)]
        for client in stalled:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.settimeout(30)
            client.connect(("127.0.0.1", httpx.URL(api.http_url).port))
            client.sendall(request)
        for _ in range(5):
            assert (await http.get("/v1/events")).status_code == 200
        assert process.memory_info().rss - before < 20_000_000
        ports = {client.getsockname()[1] for client in stalled}
        assert ports <= served_ports(process)
        await until(lambda: not ports & served_ports(process), seconds=30)
        for client in stalled:
            assert client.recv(12) == b"HTTP/1.1 200"
            client.close()
        async with http.stream("GET", "/v1/events/stream") as one_more:
            assert one_more.status_code == 200


async def test_a_stranger_may_post_4_kb(api: ServiceProcess) -> None:
    async with httpx.AsyncClient(base_url=api.http_url, trust_env=False, timeout=30) as http:
        with connected(api) as client:  # refused before it has sent any of it
            client.sendall(HALVES["half a form"].replace(b"100", b"9000000"))
            assert (await asyncio.to_thread(answer_of, client)).startswith(b"HTTP/1.1 413")

        # All of it is sent before it is refused: a server that closes earlier resets the connection.
        chunked = HALVES["half a form"].replace(b"Content-Length: 100", b"Transfer-Encoding: chunked")
        head, _, _ = chunked.partition(b"key=")
        with connected(api) as client:
            client.sendall(head + b"1388\r\n" + b"x" * 5000 + b"\r\n0\r\n\r\n")
            assert (await asyncio.to_thread(answer_of, client)).startswith(b"HTTP/1.1 413")
        small = await http.post("/sign-in", data={"key": "x" * 3000})
        assert small.status_code == 403  # without the form's token


async def test_large_bodies_do_not_hold_up_others(api: ServiceProcess, sqlite_url: str) -> None:
    headers = {"Authorization": f"Bearer {await new_key(sqlite_url)}"}
    longest = 0.0
    async with httpx.AsyncClient(base_url=api.http_url, trust_env=False, timeout=60) as http:

        async def probe() -> None:
            nonlocal longest
            while True:
                began = time.monotonic()
                await http.get("/health/live")
                longest = max(longest, time.monotonic() - began)
                await asyncio.sleep(0.02)

        probing = asyncio.create_task(probe())
        body = '{"name": "%s"}' % ("x" * 9_000_000)
        answer = await http.post("/v1/campaigns", content=body, headers={**headers, "Content-Type": "application/json"})
        probing.cancel()
    assert answer.status_code == 422
    assert longest < 1.0

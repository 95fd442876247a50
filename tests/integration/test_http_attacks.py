"""Requests that are written to be understood in two ways, or to cost much: on a real process, byte by byte."""

import asyncio
import gzip
import json
import re
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import psutil
import pytest
from sqlalchemy import insert

from cli.local.ports import free_port
from shared.ledger.database import Ledger
from shared.ledger.tenants import AuditEntry
from tests.support.processes import ServiceProcess
from tests.support.system import new_key
from tests.support.waiting import until

ServiceFactory = Callable[..., ServiceProcess]
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


class Api:
    """One running API, and raw connections to it."""

    def __init__(self, process: ServiceProcess, key: str) -> None:
        self.process, self.key = process, key

    def head(self, *lines: str, path: str = "/v1/campaigns", method: str = "POST") -> bytes:
        """A request's head, with a valid key."""
        own = (f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {self.key}", *lines, "", "")
        return "\r\n".join(own).encode("latin-1")

    def _connected(self) -> socket.socket:
        url = httpx.URL(self.process.http_url)
        assert url.port is not None
        return socket.create_connection(("127.0.0.1", url.port), timeout=20)

    async def exchange(self, *pieces: bytes) -> tuple[list[int], bytes]:
        """The statuses of all answers on one connection, and all that came, until the server ends it."""

        def talk() -> bytes:
            found = b""
            with self._connected() as client:
                try:
                    for piece in pieces:
                        client.sendall(piece)
                    while data := client.recv(65_536):
                        found += data
                except (ConnectionError, TimeoutError):
                    pass
            return found

        found = await asyncio.to_thread(talk)
        return [int(status) for status in STATUS.findall(found)], found


@pytest.fixture
async def api(tmp_path: Path, sqlite_url: str, service_process: ServiceFactory) -> AsyncIterator[Api]:
    process = service_process(
        "api",
        {
            "VASHSENDER_DATABASE_URL": sqlite_url,
            "VASHSENDER_AMQP_URL": f"amqp://guest:guest@127.0.0.1:{free_port()}/",
            "VASHSENDER_VAR_DIR": str(tmp_path),
            "VASHSENDER_HTTP_HEADER_SECONDS": "2",
            "VASHSENDER_HTTP_WRITE_SECONDS": "2",
        },
    )
    await process.wait_health("/health/live", 200)
    yield Api(process, await new_key(sqlite_url))
    log = process.log_text()
    assert process.is_running
    for trouble in ("request.failed", "Traceback", "Fatal error"):
        assert trouble not in log, log


HIDDEN = b"GET /v1/hidden HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
JSON = "Content-Type: application/json"
SMUGGLED: dict[str, tuple[list[str], bytes]] = {
    "Content-Length and chunked": (["Content-Length: 4", "Transfer-Encoding: chunked"], b"0\r\n\r\n" + HIDDEN),
    "chunked and Content-Length": (["Transfer-Encoding: chunked", "Content-Length: 500"], b"0\r\n\r\n" + HIDDEN),
    "two lengths": (["Content-Length: 0", f"Content-Length: {len(HIDDEN)}"], HIDDEN),
    "two lengths in one": ([f"Content-Length: 0, {len(HIDDEN)}"], HIDDEN),
    "a signed length": (["Content-Length: +0"], HIDDEN),
    "a negative length": (["Content-Length: -1"], HIDDEN),
    "a hexadecimal length": (["Content-Length: 0x10"], HIDDEN),
    "an endless length": ([f"Content-Length: {'9' * 30}"], HIDDEN),
    "two encodings": (["Transfer-Encoding: chunked", "Transfer-Encoding: identity"], b"0\r\n\r\n" + HIDDEN),
    "an unknown encoding": (["Transfer-Encoding: xchunked"], HIDDEN),
    "an encoding with a vertical tab": (["Transfer-Encoding: \x0bchunked"], HIDDEN),
    "encodings in one": (["Transfer-Encoding: gzip, chunked"], b"0\r\n\r\n" + HIDDEN),
    "a space before the colon": ([f"Content-Length : {len(HIDDEN)}"], HIDDEN),
    "a header without a name": ([": x"], HIDDEN),
    "a zero octet in a value": (["X-A: a\0b"], HIDDEN),
    "a carriage return in a value": (["X-A: a\rContent-Length: 5"], HIDDEN),
    "two hosts": (["Host: other.example"], b""),
    "a chunk that is no number": (["Transfer-Encoding: chunked"], b"x\r\n" + HIDDEN),
    "a signed chunk": (["Transfer-Encoding: chunked"], b"+0\r\n\r\n" + HIDDEN),
    "an endless chunk": (["Transfer-Encoding: chunked"], b"f" * 30 + b"\r\n" + HIDDEN),
    "a chunk without an end": (["Transfer-Encoding: chunked"], b"1\r\nxXX0\r\n\r\n" + HIDDEN),
}


@pytest.mark.parametrize("shape", SMUGGLED)
async def test_a_request_with_two_meanings_is_refused_and_nothing_behind_it_is_read(api: Api, shape: str) -> None:
    lines, body = SMUGGLED[shape]
    statuses, answer = await api.exchange(api.head(JSON, *lines), body)
    assert statuses in ([400], [501]), answer
    assert b"onnection: close" in answer


async def test_an_old_fold_is_a_space_and_a_bare_line_feed_ends_a_line(api: Api) -> None:
    """RFC 9112, 5.2 and 2.2: both are one request, whichever way it is written."""
    folded = api.head("X-A: one", " two", "Connection: close", method="GET")
    statuses, _ = await api.exchange(folded)
    assert statuses == [200]
    statuses, _ = await api.exchange(api.head("Connection: close", method="GET").replace(b"\r\n", b"\n"))
    assert statuses == [200]
    # A bare carriage return ends nothing.
    statuses, _ = await api.exchange(api.head("X-A: one\rTransfer-Encoding: chunked", method="GET"))
    assert statuses == [400]


@pytest.mark.parametrize("length", ["Content-Length: 9000000", "Transfer-Encoding: chunked"])
async def test_the_key_is_asked_for_before_the_body(api: Api, length: str) -> None:
    """No one without a key makes this server receive megabytes, or wait for them."""

    def first_answer(key: str, seconds: float) -> list[bytes]:
        head = ("POST /v1/campaigns HTTP/1.1", "Host: 127.0.0.1", JSON, length, f"Authorization: Bearer {key}", "", "")
        with api._connected() as client:
            client.sendall("\r\n".join(head).encode())
            client.settimeout(seconds)
            try:
                return STATUS.findall(client.recv(65_536))
            except TimeoutError:
                return []

    for wrong in ("", "vs_wrong"):
        assert await asyncio.to_thread(first_answer, wrong, 20.0) == [b"401"]
    assert await asyncio.to_thread(first_answer, api.key, 0.5) == [], "it waits for the body"


async def test_a_broken_body_after_the_answer_ends_the_connection_quietly(api: Api) -> None:
    head = b"POST /v1/campaigns HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"

    def talk() -> bytes:
        with api._connected() as client:
            client.sendall(head)
            found = client.recv(65_536)
            client.sendall(b"no chunk\r\n" * 3)
            try:
                while data := client.recv(65_536):
                    found += data
            except ConnectionError:
                pass
            return found

    assert STATUS.findall(await asyncio.to_thread(talk)) == [b"401"]


async def test_a_body_that_breaks_while_it_is_read_is_answered_once(api: Api) -> None:
    head = api.head(JSON, "Transfer-Encoding: chunked")
    statuses, _ = await api.exchange(head + b"1\r\n{\r\n", b"no chunk\r\n")
    assert statuses == [400]


@pytest.mark.parametrize(
    "header", ["Authorization: Bearer vs_x", "Idempotency-Key: b", "Content-Type: text/csv", "Content-Encoding: gzip"]
)
async def test_a_header_that_may_stand_once_is_not_sent_twice(api: Api, header: str) -> None:
    name = header.partition(":")[0]
    lines = [] if name == "Authorization" else [f"{name}: a"]
    statuses, answer = await api.exchange(api.head(*lines, header, method="GET"))
    assert statuses == [400]
    assert name.lower().encode() in answer


CHUNKS = {
    "tiny chunks": b"1\r\nx\r\n" * 100_000,
    "long extensions": b"1;" + b"x" * 4000 + b"\r\nx\r\n",
    "zeros before": b"0" * 15 + b"1\r\nx\r\n",
}


@pytest.mark.parametrize("kind", CHUNKS)
async def test_others_are_answered_during_floods_of_chunks(api: Api, kind: str) -> None:
    """They are written faster than they are read, so hundreds of kilobytes wait in the socket. How much of it is one
    step: tests/unit/test_http_connection.py."""
    body = CHUNKS[kind] * (1 if len(CHUNKS[kind]) > 100_000 else 600_000 // len(CHUNKS[kind]))
    head = b"POST /v1/campaigns HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"

    def flood() -> None:
        with api._connected() as client:
            try:
                client.sendall(head + body)
                while client.recv(65_536):
                    pass
            except ConnectionError:
                pass

    async with httpx.AsyncClient(base_url=api.process.http_url, trust_env=False, timeout=60) as client:
        working = asyncio.create_task(asyncio.to_thread(flood))
        while not working.done():
            assert (await client.get("/health/live")).status_code == 200
        await working


async def test_tiny_chunks_are_understood(api: Api) -> None:
    campaign = json.dumps({"name": "x" * 200, "from": {"email": "a@example.com"}, "subject": "s", "text": "t" * 60_000})
    body = b"".join(b"1\r\n%c\r\n" % octet for octet in campaign.encode()) + b"0\r\n\r\n"
    assert len(body) > 300_000
    statuses, answer = await api.exchange(api.head(JSON, "Transfer-Encoding: chunked", "Connection: close") + body)
    assert statuses == [201], answer[:500]


async def test_pipelined_requests_are_answered_in_order(api: Api) -> None:
    many = [api.head(path=f"/v1/campaigns?limit={number}", method="GET") for number in range(1, 60)]
    wrong = api.head(path="/v1/campaigns?limit=0", method="GET")
    last = api.head("Connection: close", method="GET")
    statuses, _ = await api.exchange(b"".join([*many, wrong, *many, last]))
    assert statuses == [200] * 59 + [422] + [200] * 60


async def test_a_packed_body_is_refused_and_a_packed_list_is_bounded(api: Api) -> None:
    bomb = gzip.compress(b'{"name": "' + b"x" * 50_000_000 + b'"}')
    async with httpx.AsyncClient(base_url=api.process.http_url, trust_env=False, timeout=60) as client:
        client.headers["Authorization"] = f"Bearer {api.key}"
        for encoding in ("gzip", "deflate", "br", "gzip, gzip"):
            headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
            answer = await client.post("/v1/campaigns", content=bomb, headers=headers)
            assert answer.status_code == 415, answer.text
        made = await client.post(
            "/v1/campaigns", json={"name": "n", "from": {"email": "a@example.com"}, "subject": "s", "text": "t"}
        )
        path = f"/v1/campaigns/{made.json()['id']}/recipients"
        listed = gzip.compress(b"email\n" + b"x" * 50_000_000)
        headers = {"Content-Type": "text/csv", "Content-Encoding": "gzip"}
        answer = await client.post(path, content=listed, headers=headers)
        assert answer.status_code == 422, answer.text


PATHS = [
    "/v1/%2e%2e/metrics",
    "/u/%2e%2e/v1/campaigns",
    "/u/..%2fv1%2fcampaigns",
    "/health/../v1/campaigns",
    "//v1/campaigns",
    "/v1//campaigns",
    "/v1/campaigns/%00",
    "/v1/campaigns/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "/static/%2e%2e/%2e%2e/main.py",
    "/static/..%5c..%5cmain.py",
    "/static/%252e%252e/main.py",
    "/v1/campaigns/%ff%fe",
    "/v1/campaigns/\ufeff".encode().decode("latin-1"),
    "/v1/campaigns;key=1",
    "/v1/campaigns/%0d%0aSet-Cookie:%20a=b",
    "/sign-in?next=//evil.example",
    "/sign-in?next=https://evil.example",
    "/sign-in?next=/%5cevil.example",
    "/sign-in?next=%0d%0aSet-Cookie:a=b",
    "/sign-in/%2e%2e/metrics",
    "/campaigns/%2e%2e%2faccess",
    "http://evil.example/v1/campaigns",
    "*",
]


async def test_no_path_leads_past_the_key(api: Api) -> None:
    for path in PATHS:
        for method in ("GET", "POST", "OPTIONS", "TRACE"):
            head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            statuses, answer = await api.exchange(head.encode("latin-1"))
            assert len(statuses) == 1, (method, path, answer)
            assert statuses[0] < 500, (method, path, answer)
            head_of_answer, _, body = answer.partition(b"\r\n\r\n")
            assert b"Set-Cookie: a=b" not in head_of_answer
            assert not re.search(rb"(?i)location: *(//|https?://|/\\\\)", head_of_answer), (path, head_of_answer)
            if statuses[0] == 200:
                assert path.startswith("/sign-in"), (method, path, answer)
                assert b"evil.example" not in body, (path, body)


async def test_no_other_site_may_read_or_write(api: Api) -> None:
    """No CORS: browsers keep answers from other sites, and ask in vain before a request with a key or with JSON."""
    origin = {"Origin": "https://evil.example"}
    async with httpx.AsyncClient(base_url=api.process.http_url, trust_env=False) as client:
        asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        for path in ("/v1/campaigns", "/sign-in", "/health/ready", "/openapi.json", "/u/x"):
            for answer in (
                await client.options(path, headers={**origin, **asks}),
                await client.get(path, headers={**origin, "Authorization": f"Bearer {api.key}"}),
            ):
                assert not [name for name in answer.headers if name.startswith("access-control-")], (
                    path,
                    answer.headers,
                )
        forged = await client.post("/sign-in", data={"key": api.key}, headers={"Sec-Fetch-Site": "cross-site"})
        assert forged.status_code == 403
        assert "vashsender=" not in forged.headers.get("set-cookie", "")


async def test_a_host_of_others_is_refused_with_or_without_a_cookie(api: Api) -> None:
    async with httpx.AsyncClient(base_url=api.process.http_url, trust_env=False) as client:
        for host in (
            "evil.example",
            "127.0.0.1.evil.example",
            "evil.example:80",
            "localhost@evil.example",
            "127.0.0.1, evil",
        ):
            answer = await client.get("/", headers={"Host": host, "Cookie": "vashsender=x"})
            assert answer.status_code in (400, 421), (host, answer.status_code)
        wrong = await client.get("/v1/campaigns", headers={"Host": "evil.example"})
        assert wrong.status_code == 421, "only a key proves that no browser was tricked"


async def test_a_slow_reader_of_an_export_is_let_go_and_holds_no_one_up(api: Api, sqlite_url: str) -> None:
    names = ("actor", "actor_name", "action", "address", "result")
    entry = {"at": 1.0, "via": "api", "target": "x" * 500, **dict.fromkeys(names, "test")}
    ledger = Ledger(sqlite_url, pool_size=1)
    try:
        for _ in range(20):  # 13 MB as NDJSON: more than the sockets hold
            async with ledger.write() as connection:
                await connection.execute(insert(AuditEntry), [entry] * 1000)
        with api._connected() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sendall(api.head(path="/v1/audit/export?format=ndjson", method="GET"))
            port = client.getsockname()[1]
            process = psutil.Process(api.process.pid)

            def is_open() -> bool:
                return any(one.raddr and one.raddr.port == port for one in process.net_connections("tcp4"))

            await until(is_open)
            # The database can be written to while nothing is read.
            async with ledger.write() as connection:
                await connection.execute(insert(AuditEntry), [entry])
            await until(lambda: not is_open())
    finally:
        await ledger.close()

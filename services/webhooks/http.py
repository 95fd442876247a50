"""The HTTP client of webhooks. It faces strangers: no redirect, no proxy, no private address, no unbounded answer."""

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpcore

from services.webhooks.addresses import Network, is_allowed, may_connect
from shared.plain_text import one_line

ANSWER_BYTES = 4096
"""Of an answer's body that are read; the rest is not, and the connection is closed."""

READ_BYTES = 131_072
"""Of a whole answer: interim answers (1xx), headers and body."""

CONNECT_SECONDS = 5.0
"""For each address of a host, so that one that does not answer leaves time for the next."""

ERROR_CHARACTERS = 200
MOST_LOOKUPS = 1000
"""Host names looked up at once, each on a thread. One whose name servers are silent takes up to half a minute; there
are more threads than deliveries (VASHSENDER_WEBHOOK_DELIVERIES), so it delays no other endpoint."""

LONGEST_RETRY_AFTER_SECONDS = 3600.0
"""As the longest wait between two tries: an endpoint that fails for three days is disabled, whatever it says."""

MOST_CONNECTIONS, MOST_IDLE, IDLE_SECONDS = 1000, 100, 30.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one POST."""

    #: None: there was no answer.
    status: int | None
    #: What was wrong; empty if it was accepted.
    error: str = ""
    #: Seconds after which the endpoint asks to be tried again (Retry-After, RFC 9110, 10.2.3); 0: it does not say.
    retry_after: float = 0.0

    @property
    def is_accepted(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


class ForbiddenAddressError(httpcore.ConnectError):
    """The host has only addresses that a webhook may not go to."""


class BoundedStream(httpcore.AsyncNetworkStream):
    """Reads a bounded number of bytes after each request. Without it, an endpoint could keep the process busy with
    interim answers without end, which the parser takes as fast as they come."""

    def __init__(self, inner: httpcore.AsyncNetworkStream) -> None:
        self._inner = inner
        self._left = READ_BYTES

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Raises ReadError."""
        if self._left <= 0:
            raise httpcore.ReadError(f"the answer has more than {READ_BYTES} bytes")
        data = await self._inner.read(min(max_bytes, self._left), timeout)
        self._left -= len(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._left = READ_BYTES
        await self._inner.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        return BoundedStream(await self._inner.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class GuardedNetwork(httpcore.AsyncNetworkBackend):
    """Looks a host up itself, judges its addresses, and connects to an address, so no second lookup can differ."""

    def __init__(self, may_connect: Callable[[str], bool], refusal: str) -> None:
        self._may_connect = may_connect
        self._refusal = refusal
        self._inner = httpcore.AnyIOBackend()
        self._resolvers = ThreadPoolExecutor(MOST_LOOKUPS, "resolver")
        #: Lookups under way. A name that is tried again waits for the same, so it takes one thread.
        self._lookups: dict[tuple[str, int], asyncio.Future[Sequence[str]]] = {}

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Raises ForbiddenAddressError, ConnectError, ConnectTimeout."""
        failure: Exception = ForbiddenAddressError(f"{host}: {self._refusal}")
        for address in await self._addresses(host, port):
            if not self._may_connect(address):
                continue
            try:
                stream = await self._inner.connect_tcp(address, port, CONNECT_SECONDS, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
                continue
            peer = stream.get_extra_info("server_addr")
            if peer is not None and self._may_connect(str(peer[0])):
                return BoundedStream(stream)
            await stream.aclose()
        raise failure

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        raise httpcore.UnsupportedProtocol("webhooks go to http and https URLs only")

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)

    async def _addresses(self, host: str, port: int) -> Sequence[str]:
        def resolve() -> Sequence[str]:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            return list(dict.fromkeys(str(info[4][0]) for info in found))

        wanted = (host, port)
        if wanted not in self._lookups:
            self._lookups[wanted] = asyncio.get_running_loop().run_in_executor(self._resolvers, resolve)
            self._lookups[wanted].add_done_callback(lambda _: self._lookups.pop(wanted))
        try:
            return await asyncio.shield(self._lookups[wanted])
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"{host} cannot be resolved: {error}") from None


class Client:
    """POSTs to endpoints. Opens its pool at the first POST; `close` ends it."""

    def __init__(self, allowed: Sequence[Network], trusted: ssl.SSLContext, seconds: float) -> None:
        """`allowed`: networks that are not public. `seconds` bounds a whole POST, from lookup to end of answer."""
        self._seconds = seconds
        encrypted = GuardedNetwork(
            lambda address: may_connect(address, allowed),
            "no address of it is public or allowed by VASHSENDER_WEBHOOK_NETWORKS",
        )
        plain = GuardedNetwork(
            lambda address: is_allowed(address, allowed),
            "plain http goes only to networks that VASHSENDER_WEBHOOK_NETWORKS allows; use https",
        )
        self._pools = {"https": _pool(encrypted, trusted), "http": _pool(plain, trusted)}

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Never raises for what the other side does."""
        try:
            async with asyncio.timeout(self._seconds):
                return await self._post(url, headers, body)
        except TimeoutError:
            return Answer(None, f"no answer within {self._seconds:g} s")
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            return Answer(None, str(error)[:ERROR_CHARACTERS] or type(error).__name__)
        except (httpcore.UnsupportedProtocol, ssl.SSLError, OSError, KeyError, ValueError) as error:
            return Answer(None, str(error)[:ERROR_CHARACTERS] or type(error).__name__)

    async def close(self) -> None:
        for pool in self._pools.values():
            await pool.aclose()

    async def _post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        given = {"content-type": "application/json", "content-length": str(len(body)), **headers}
        pool = self._pools[url.partition(":")[0]]
        async with pool.stream("POST", url, headers=list(given.items()), content=body) as response:
            said = bytearray()
            async for part in response.aiter_stream():
                said += part[: ANSWER_BYTES - len(said)]
                if len(said) >= ANSWER_BYTES:
                    break
        if 200 <= response.status < 300:
            return Answer(response.status)
        words = one_line(f"{response.status} {said.decode('utf-8', 'replace')}", ERROR_CHARACTERS)
        return Answer(response.status, words, retry_after(response.headers))


def retry_after(headers: Sequence[tuple[bytes, bytes]]) -> float:
    """What the header says, if it is a number of seconds; at most LONGEST_RETRY_AFTER_SECONDS."""
    said = next((value.strip() for name, value in headers if name.lower() == b"retry-after"), b"")
    return min(float(said), LONGEST_RETRY_AFTER_SECONDS) if said.isdigit() and len(said) < 20 else 0.0


def trusted(ca_file: Path | None) -> ssl.SSLContext:
    """The system's authorities, and the installation's if it has one."""
    context = ssl.create_default_context()
    if ca_file is not None:
        context.load_verify_locations(cafile=ca_file)
    return context


def _pool(network: GuardedNetwork, trusted: ssl.SSLContext) -> httpcore.AsyncConnectionPool:
    return httpcore.AsyncConnectionPool(
        ssl_context=trusted,
        max_connections=MOST_CONNECTIONS,
        max_keepalive_connections=MOST_IDLE,
        keepalive_expiry=IDLE_SECONDS,
        network_backend=network,
    )

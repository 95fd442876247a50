"""A network link that can be cut: a TCP proxy in a thread. While it is cut it holds bytes back."""

import asyncio
import socket
import struct
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar
from urllib.parse import urlsplit

LOOPBACK = "127.0.0.1"
CALL_SECONDS = 10.0
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER with no time: RST instead of FIN

T = TypeVar("T")


class Proxy:
    """Listens on `host`:`port` (0: a free one) from `start` to `stop`, and forwards to `target_port` on 127.0.0.1.

    While the link is cut, neither end notices anything, not even that the other has died, and a new connection gets no
    answer."""

    def __init__(self, target_port: int, host: str = LOOPBACK, port: int = 0) -> None:
        self.port = port
        self._host = host
        self._target_port = target_port
        self._loop = asyncio.new_event_loop()
        self._links: set[_Link] = set()
        self._forgotten: set[_Link] = set()
        self._held = {"requests": False, "answers": False}
        self._restored = asyncio.Event()
        self._restored.set()

    def start(self) -> None:
        started: Future[None] = Future()

        async def listen() -> None:
            server = await self._loop.create_server(lambda: _End(self), self._host, self.port)
            self.port = server.sockets[0].getsockname()[1]
            self._server = server

        def serve() -> None:
            asyncio.set_event_loop(self._loop)
            self._loop.run_until_complete(listen())
            started.set_result(None)
            self._loop.run_forever()
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            self._loop.run_until_complete(asyncio.sleep(0))
            self._loop.close()

        self._thread = threading.Thread(target=serve, name="proxy", daemon=True)
        self._thread.start()
        started.result(CALL_SECONDS)

    def stop(self) -> None:
        """Closes the port and resets every connection."""

        def end() -> None:
            self._server.close()
            self._links |= self._forgotten
            self._reset_all()
            self._loop.call_later(0.01, self._loop.stop)  # after the loop has closed the aborted transports

        self._loop.call_soon_threadsafe(end)
        self._thread.join(CALL_SECONDS)

    def cut(self, *, requests: bool = True, answers: bool = True) -> None:
        """Holds back what goes to the target, what comes from it, or both."""
        self._call(lambda: self._hold(requests, answers))

    def restore(self) -> None:
        """Lets the bytes that were held back flow again."""
        self._call(lambda: self._hold(False, False))

    def forget(self) -> None:
        """Makes existing connections silent for good while new ones work, like a firewall that has lost its state."""

        def forget() -> None:
            for link in self._links:
                link.hold(True, True)
            self._forgotten |= self._links
            self._links.clear()

        self._call(forget)

    def reset(self) -> None:
        """Sends RST to both ends of every connection."""
        self._call(self._reset_all)

    @property
    def connections(self) -> int:
        return self._call(lambda: len(self._links))

    def _hold(self, requests: bool, answers: bool) -> None:
        self._held = {"requests": requests, "answers": answers}
        for link in self._links:
            link.hold(requests, answers)
        if requests or answers:
            self._restored.clear()
        else:
            self._restored.set()

    def _reset_all(self) -> None:
        for link in list(self._links):
            link.reset()

    def _call(self, what: Callable[[], T]) -> T:
        answer: Future[T] = Future()

        def run() -> None:
            answer.set_result(what())

        self._loop.call_soon_threadsafe(run)
        return answer.result(CALL_SECONDS)


def with_port(url: str, port: int) -> str:
    """The URL with another port of this machine."""
    parts = urlsplit(url)
    account, found, _ = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{account}{found}{LOOPBACK}:{port}").geturl()


class _Link:
    """One connection through the proxy, with its two ends."""

    def __init__(self, proxy: Proxy, client: "_End") -> None:
        self._proxy = proxy
        self.client = client
        self.target: _End | None = None
        self._held = dict(proxy._held)
        proxy._links.add(self)

    def hold(self, requests: bool, answers: bool) -> None:
        self._held = {"requests": requests, "answers": answers}
        for end, held in ((self.client, requests), (self.target, answers)):
            if end is not None and not end.transport.is_closing():
                if held or self.target is None:
                    end.transport.pause_reading()
                else:
                    end.transport.resume_reading()

    async def connect(self) -> None:
        """Connects to the target once the link is restored."""
        await self._proxy._restored.wait()
        if self.client.transport.is_closing():
            return
        try:
            await self._proxy._loop.create_connection(
                lambda: _End(self._proxy, self), LOOPBACK, self._proxy._target_port
            )
        except OSError:
            self.reset()
        else:
            self.hold(**self._held)

    def reset(self) -> None:
        self._proxy._links.discard(self)
        for end in (self.client, self.target):
            if end is not None:
                end.reset()

    def other(self, end: "_End") -> "_End | None":
        return self.target if end is self.client else self.client

    def closed(self, end: "_End") -> None:
        self._proxy._links.discard(self)
        other = self.other(end)
        if other is not None and not other.transport.is_closing():
            other.transport.close()


class _End(asyncio.Protocol):
    """One end of a link. A new client has no link yet."""

    transport: asyncio.Transport

    def __init__(self, proxy: Proxy, link: _Link | None = None) -> None:
        self._proxy = proxy
        self._link = link
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        if self._link is None:
            self._link = _Link(self._proxy, self)
            # Deferred: before Python 3.11.4 a transport starts to read right after this call, even if paused.
            self._proxy._loop.call_soon(transport.pause_reading)
            self._connecting = self._proxy._loop.create_task(self._link.connect())
        else:
            self._link.target = self

    def data_received(self, data: bytes) -> None:
        assert self._link is not None
        other = self._link.other(self)
        if other is not None:
            other.transport.write(data)

    def connection_lost(self, _error: Exception | None) -> None:
        assert self._link is not None
        self._link.closed(self)

    def reset(self) -> None:
        sock = self.transport.get_extra_info("socket")
        if sock is not None and sock.fileno() >= 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.transport.abort()

"""A relay in a thread that records which recipient got what, and when the first byte came."""

import asyncio
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import cast

from tests.support.stamped_socket import StampedSocket, listening_socket

_ADDRESS = re.compile(rb"<([^>]*)>")
_MESSAGE_ID = re.compile(rb"^Message-ID: *(\S+)", re.MULTILINE | re.IGNORECASE)


class After(Enum):
    """What the relay does when a whole message has come."""

    ACCEPT = "250"
    SILENCE = "keeps the email, never answers"
    DROP = "keeps the email, closes without an answer"
    DROP_UNKEPT = "loses the email, closes without an answer"


@dataclass(frozen=True, slots=True)
class Received:
    """One email that the relay has taken, whether or not it could say so. Times are `time.monotonic()`."""

    rcpt: str
    message_id: str
    first_byte_at: float
    kept_at: float


@dataclass(slots=True)
class Behaviour:
    """May be changed by a test at any moment. The functions get the recipient and the number of earlier tries."""

    banner: bytes = b"220 relay.test ESMTP\r\n"
    mail: Callable[[], bytes | None] = lambda: None
    rcpt: Callable[[str, int], bytes | None] = lambda _rcpt, _tries: None
    dot: Callable[[str, int], bytes | After] = lambda _rcpt, _tries: After.ACCEPT
    seconds_per_email: float = 0.0
    size_limit: int = 0  # in bytes, offered as SIZE (RFC 1870); 0: none


class RecordingRelay:
    """Listens on 127.0.0.1 from `start` to `stop`. Its records survive a stop and a new start on the same port."""

    def __init__(self) -> None:
        self.behaviour = Behaviour()
        self.received: list[Received] = []
        self.tries: Counter[str] = Counter()
        self.first_bytes: list[tuple[float, str]] = []
        self.connections = 0
        """Connections accepted so far, open or closed."""
        self.port = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Transport] = set()

    @property
    def url(self) -> str:
        return f"smtp://127.0.0.1:{self.port}?tls=none"

    def start(self) -> None:
        started = threading.Event()

        def serve() -> None:
            loop = self._loop = asyncio.new_event_loop()

            async def listen() -> None:
                listener = listening_socket(self.port)
                self.port = listener.getsockname()[1]
                self._server = await loop.create_server(lambda: _Session(self), sock=listener)
                started.set()

            loop.run_until_complete(listen())
            loop.run_forever()
            loop.close()

        self._thread = threading.Thread(target=serve, name="recording-relay", daemon=True)
        self._thread.start()
        if not started.wait(10):
            raise RuntimeError("the recording relay did not start")

    def stop(self) -> None:
        """Closes the port and resets every connection."""
        loop, server = self._loop, self._server
        assert loop is not None
        assert server is not None
        assert self._thread is not None

        def end() -> None:
            server.close()
            self._abort_all()
            loop.call_later(0.01, loop.stop)  # aborted transports close in the loop's next iterations

        loop.call_soon_threadsafe(end)
        self._thread.join(10)

    def _abort_all(self) -> None:
        for transport in list(self._open):
            transport.abort()

    @property
    def copies(self) -> Counter[str]:
        """How many emails each recipient got."""
        return Counter(email.rcpt for email in list(self.received))

    @property
    def duplicates(self) -> int:
        return sum(count - 1 for count in self.copies.values())


@dataclass(slots=True)
class _Email:
    rcpt: str
    first_byte_at: float = 0.0
    body: bytearray = field(default_factory=bytearray)


class _Session(asyncio.Protocol):
    """One connection; offers PIPELINING (RFC 2920)."""

    def __init__(self, relay: RecordingRelay) -> None:
        self._relay = relay
        self._buffer = bytearray()
        self._email: _Email | None = None
        self._in_data = False
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._socket = cast(StampedSocket, transport.get_extra_info("socket")._sock)
        self._relay._open.add(transport)
        self._relay.connections += 1
        self._say(self._relay.behaviour.banner)
        if not self._relay.behaviour.banner.startswith(b"2"):
            transport.close()

    def connection_lost(self, _error: Exception | None) -> None:
        self._relay._open.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._paused:
            self._work()

    def _say(self, reply: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(reply)

    def _work(self) -> None:
        while self._buffer and not self._paused and not self._transport.is_closing():
            if self._in_data:
                if not self._body():
                    return
            else:
                line, found, rest = self._buffer.partition(b"\r\n")
                if not found:
                    return
                self._buffer = rest
                self._command(bytes(line))

    def _command(self, line: bytes) -> None:
        verb = line[:4].upper()
        if verb == b"EHLO":
            limit = self._relay.behaviour.size_limit
            extensions = ["relay.test", "PIPELINING", "8BITMIME", "SMTPUTF8", *([f"SIZE {limit}"] if limit else [])]
            lines = "".join(f"250-{extension}\r\n" for extension in extensions)
            self._say(f"{lines}250 ENHANCEDSTATUSCODES\r\n".encode())
        elif verb == b"MAIL":
            self._email = None
            self._say(self._relay.behaviour.mail() or b"250 2.1.0 ok\r\n")
        elif verb == b"RCPT":
            address = _ADDRESS.search(line)
            rcpt = address[1].decode() if address else ""
            refusal = self._relay.behaviour.rcpt(rcpt, self._relay.tries[rcpt])
            if refusal is None:
                self._email = _Email(rcpt)
                self._say(b"250 2.1.5 ok\r\n")
            else:
                self._relay.tries[rcpt] += 1
                self._say(refusal)
        elif verb == b"DATA":
            if self._email is None:
                self._say(b"503 5.5.1 no recipient\r\n")
            else:
                self._in_data = self._socket.one_byte = True
                self._say(b"354 go on\r\n")
        elif verb == b"RSET":
            self._email = None
            self._say(b"250 2.0.0 ok\r\n")
        elif verb == b"QUIT":
            self._say(b"221 2.0.0 bye\r\n")
            self._transport.close()
        else:
            self._say(b"250 2.0.0 ok\r\n")

    def _body(self) -> bool:
        """Takes body bytes; False if the dot has not come yet."""
        email = self._email
        assert email is not None
        if not email.first_byte_at:
            email.first_byte_at = self._socket.arrived_at
            self._socket.one_byte = False
            self._relay.first_bytes.append((email.first_byte_at, email.rcpt))
        end = self._buffer.find(b"\r\n.\r\n")
        if end < 0:
            return False
        email.body += self._buffer[:end]
        del self._buffer[: end + 5]
        self._in_data = False
        seconds = self._relay.behaviour.seconds_per_email
        if seconds:
            self._paused = True
            asyncio.get_running_loop().call_later(seconds, self._finish_late, email)
        else:
            self._finish(email)
        return True

    def _finish_late(self, email: _Email) -> None:
        self._paused = False
        self._finish(email)
        self._work()

    def _finish(self, email: _Email) -> None:
        relay = self._relay
        answer = relay.behaviour.dot(email.rcpt, relay.tries[email.rcpt])
        relay.tries[email.rcpt] += 1
        if isinstance(answer, bytes):
            self._say(answer)
            return
        if answer is not After.DROP_UNKEPT:
            message_id = _MESSAGE_ID.search(email.body)
            relay.received.append(
                Received(
                    email.rcpt, message_id[1].decode() if message_id else "", email.first_byte_at, time.monotonic()
                )
            )
        if answer is After.ACCEPT:
            self._say(f"250 2.0.0 ok: queued as R{len(relay.received)}\r\n".encode())
        elif answer is After.SILENCE:
            self._paused = True
        else:
            self._transport.abort()

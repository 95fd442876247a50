"""One HTTP connection with deadlines and bounds. Uvicorn itself waits for ever for half a request and for a client that
does not read its answer, and parses whatever has arrived before it does anything else."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import h11
import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from shared.settings import CommonSettings

BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\nRetry-After: 5\r\n\r\n"

PARSED_BYTES = 8192
"""Of a chunked body or of headers that are parsed at once: in chunks of one byte this takes about 20 ms, and 256 KB may
arrive at a time. Other connections have their turn in between."""


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """What one HTTP port bears."""

    #: Most connections, and most from one address. More are answered with 503 and closed.
    connections: int
    connections_per_address: int
    #: Seconds that a request's headers may take, from the connection or the last answer.
    header_seconds: float
    #: Seconds in which a client must read enough of what waits for it.
    write_seconds: float

    @classmethod
    def of(cls, settings: CommonSettings) -> HttpLimits:
        return cls(
            settings.http_connections,
            settings.http_connections_per_address,
            settings.http_header_seconds,
            settings.http_write_seconds,
        )


class LimitedConfig(uvicorn.Config):
    """Uvicorn's configuration, and the limits of each connection."""

    limits: HttpLimits


class _Reading(FlowControl):
    """Reads from the socket while the application wants more and nothing that has arrived waits to be parsed."""

    _waits = False
    _enough = False

    def pause_reading(self) -> None:
        self._enough = True
        super().pause_reading()

    def resume_reading(self) -> None:
        self._enough = False
        if not self._waits:
            super().resume_reading()

    def hold(self) -> None:
        self._waits = True
        super().pause_reading()

    def release(self) -> None:
        self._waits = False
        if not self._enough:
            super().resume_reading()


class LimitedConnection(H11Protocol):
    """Ends the connection if the client keeps it waiting. While the application works on an answer, only a client that
    does not read is ended: bodies have deadlines where they are read."""

    config: LimitedConfig
    _request_due: asyncio.TimerHandle | None = None
    _reading_due: asyncio.TimerHandle | None = None
    _reading: _Reading
    #: Has arrived, and is still to be parsed.
    _unparsed = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = self._reading = _Reading(transport)
        limits = self.config.limits
        same = sum(1 for other in self.connections if _host_of(other) == _host_of(self))
        if len(self.connections) > limits.connections or same > limits.connections_per_address:
            transport.write(BUSY)
            transport.close()
        self._await_request()

    def data_received(self, data: bytes) -> None:
        if self._unparsed:
            self._unparsed += data
            return
        if len(data) > PARSED_BYTES and not self._has_length():
            data, self._unparsed = data[:PARSED_BYTES], data[PARSED_BYTES:]
            self._reading.hold()
            self.loop.call_soon(self._parse_more)
        self._parse(data)

    def send_400_response(self, msg: str) -> None:
        """The client has broken the protocol. An answer that has begun cannot be replaced by another."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.close()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._await_request()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reading_due = self.loop.call_later(self.config.limits.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._reading_due is not None:
            self._reading_due.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._request_due, self._reading_due):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def _parse(self, data: bytes) -> None:
        super().data_received(data)
        self._await_request()

    def _parse_more(self) -> None:
        if self.transport.is_closing():
            self._unparsed = b""
            return
        size = len(self._unparsed) if self._has_length() else PARSED_BYTES
        data, self._unparsed = self._unparsed[:size], self._unparsed[size:]
        if self._unparsed:
            self.loop.call_soon(self._parse_more)
        else:
            self._reading.release()
        self._parse(data)

    def _has_length(self) -> bool:
        """Whether a body arrives that is one piece to the parser, however long it is."""
        in_body = self.conn.their_state is h11.SEND_BODY
        return in_body and not any(name == b"transfer-encoding" for name, _ in self.headers)

    def _await_request(self) -> None:
        """Sets the deadline of the next request's headers unless it runs, or ends it once there is a request."""
        answering = self.cycle is not None and not self.cycle.response_complete
        if answering and self._request_due is not None:
            self._request_due.cancel()
            self._request_due = None
        elif not answering and self._request_due is None:
            limits = self.config.limits
            unread = self.transport.get_write_buffer_size()
            seconds = max(limits.header_seconds, limits.write_seconds) if unread else limits.header_seconds
            self._request_due = self.loop.call_later(seconds, self.transport.abort)


def _host_of(connection: object) -> str:
    """The client's address; empty for a connection that is not ours or over a local socket."""
    return connection.client[0] if isinstance(connection, LimitedConnection) and connection.client else ""

"""A DNS server of the test's own, over UDP and TCP on loopback."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Thread
from typing import cast

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

LOOPBACK = "127.0.0.1"
UDP_BYTES = 300  # so that a DKIM key needs TCP


@dataclass
class DnsServer:
    """Answers from `zone`: texts of records by name and type, such as `{"example.com": {"TXT": ['"v=spf1 -all"']}}`."""

    zone: Mapping[str, Mapping[str, Sequence[str]]]
    #: Names about which it says nothing at all, and about which it fails.
    silent: set[str] = field(default_factory=set)
    failing: set[str] = field(default_factory=set)
    #: Names and types it was asked for, with the transport: `udp` or `tcp`.
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    port: int = 0

    @property
    def address(self) -> str:
        """As VASHSENDER_DNS_SERVERS takes it."""
        return f"{LOOPBACK}:{self.port}"

    def answer(self, wire: bytes, transport: str) -> bytes | None:
        query = dns.message.from_wire(wire)
        [question] = query.question
        name, kind = question.name.to_text().rstrip(".").lower(), dns.rdatatype.to_text(question.rdtype)
        self.asked.append((name, kind, transport))
        if name in self.silent:
            return None
        response = dns.message.make_response(query)
        known = {each.lower(): records for each, records in self.zone.items()}
        if name in self.failing:
            response.set_rcode(dns.rcode.SERVFAIL)
        elif name not in known:
            response.set_rcode(dns.rcode.NXDOMAIN)
        elif texts := known[name].get(kind):
            response.answer.append(dns.rrset.from_text_list(question.name, 60, "IN", kind, texts))
        made = response.to_wire()
        if transport == "udp" and len(made) > UDP_BYTES:
            response = dns.message.make_response(query)
            response.flags |= dns.flags.TC
            made = response.to_wire()
        return made


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if (made := self._server.answer(data, "udp")) is not None:
            self._transport.sendto(made, addr)


@contextmanager
def no_records() -> Iterator[str]:
    """For tests without an event loop: the address of a server that knows no name, in a thread."""
    started: SimpleQueue[tuple[str, asyncio.AbstractEventLoop, asyncio.Event]] = SimpleQueue()

    async def serve() -> None:
        async with dns_server({}) as server:
            stop = asyncio.Event()
            started.put((server.address, asyncio.get_running_loop(), stop))
            await stop.wait()

    thread = Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    address, loop, stop = started.get(timeout=30)
    try:
        yield address
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


@asynccontextmanager
async def dns_server(zone: Mapping[str, Mapping[str, Sequence[str]]]) -> AsyncIterator[DnsServer]:
    """Serves until the block ends."""
    server = DnsServer(zone)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            length = int.from_bytes(await reader.readexactly(2), "big")
            if (made := server.answer(await reader.readexactly(length), "tcp")) is not None:
                writer.write(len(made).to_bytes(2, "big") + made)
                await writer.drain()
        finally:
            writer.close()

    tcp = await asyncio.start_server(talk, LOOPBACK, 0)
    server.port = tcp.sockets[0].getsockname()[1]
    loop = asyncio.get_running_loop()
    udp, _ = await loop.create_datagram_endpoint(lambda: _Udp(server), local_addr=(LOOPBACK, server.port))
    try:
        yield server
    finally:
        udp.close()
        tcp.close()
        await tcp.wait_closed()

"""An SMTP server that does what a test says, for faults that no real server shows on demand.

Left alone it is polite. A test's `script` is asked before each answer, with the verb it answers (CONNECT, EHLO, MAIL,
RCPT, DATA, "." for the end of a body, RSET, QUIT) and the command's line; for DATA and "." with the recipient. It
returns the reply to send instead, an `Act`, or None for the polite answer.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum

from shared.relays.config import RelayConfig
from tests.support.smtp.configs import relay_config


class Act(Enum):
    """What a server may do instead of answering."""

    SILENCE = "say nothing, ever"
    CLOSE = "close the connection"
    RESET = "reset the connection (RST)"
    ABSORB = "say nothing to this, go on"


Script = Callable[[str, str], "str | Act | None"]
POLITE = {
    "CONNECT": "220 scripted ESMTP",
    "MAIL": "250 2.1.0 Ok",
    "RCPT": "250 2.1.5 Ok",
    "DATA": "354 Go ahead",
    ".": "250 2.0.0 Ok: queued as SCRIPTED1",
    "RSET": "250 2.0.0 Ok",
    "QUIT": "221 2.0.0 Bye",
}


@dataclass
class Session:
    """One connection as the server saw it. `verbs` are what it read, in order, and "closed" at its end."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    verbs: list[str] = field(default_factory=list)


@dataclass
class ScriptedRelay:
    """A running server. `messages`: recipient and body of what it accepted; `bodies`: every whole body it read."""

    port: int
    script: Script
    extensions: tuple[str, ...]
    bytewise: bool
    messages: list[tuple[str, bytes]] = field(default_factory=list)
    bodies: list[tuple[str, bytes]] = field(default_factory=list)
    sessions: list[Session] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def config(self, name: str = "scripted", **options: object) -> RelayConfig:
        """The configuration of this relay."""
        return relay_config(self.port, name, helo="client.example.org", **options)

    async def until(self, condition: Callable[[], object], seconds: float = 60.0) -> None:
        """Returns when something that the server saw makes `condition` true."""
        async with asyncio.timeout(seconds):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def say(self, session: Session, text: str) -> None:
        """Send an unsolicited reply on one connection."""
        session.writer.write(text.encode() + b"\r\n")
        await session.writer.drain()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = Session(reader, writer)
        self.sessions.append(session)
        self._changed.set()
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            if await self._answer(session, "CONNECT", "") is not None:
                await self._dialogue(session)
        session.verbs.append("closed")
        self._changed.set()
        writer.transport.abort()

    async def _dialogue(self, session: Session) -> None:
        recipient, accepted, reader = "", False, session.reader
        while line := (await reader.readline()).decode():
            verb = line[:4].strip().upper()
            session.verbs.append(verb)
            self._changed.set()
            if verb == "RCPT":
                recipient = line[line.index("<") + 1 : line.index(">")]
            usual = "554 5.5.1 no valid recipients" if verb == "DATA" and not accepted else None
            reply = await self._answer(session, verb, recipient if verb == "DATA" else line.strip(), usual)
            if reply is None or verb == "QUIT":
                return
            if verb in ("MAIL", "RCPT", "RSET"):
                accepted = verb == "RCPT" and reply.startswith("2")
            if verb == "DATA" and reply.startswith("354"):
                body = b""
                while (content := await reader.readline()) != b".\r\n":
                    if not content:
                        return
                    body += content
                session.verbs.append(".")
                self.bodies.append((recipient, body))
                self._changed.set()
                usual = None if accepted else "554 5.5.1 no valid recipients"
                reply = await self._answer(session, ".", recipient, usual)
                accepted = False
                if reply is None:
                    return
                if reply.startswith("2"):
                    self.messages.append((recipient, body))
                    self._changed.set()

    async def _answer(self, session: Session, verb: str, line: str, polite: str | None = None) -> str | None:
        """The reply that was sent; empty if none was and the dialogue goes on; None if the dialogue is over."""
        reply = self.script(verb, line) or polite
        if reply is None and verb in ("EHLO", "HELO"):
            lines = ["scripted", *self.extensions]
            reply = "\r\n".join(f"250{'-' if n < len(lines) else ' '}{text}" for n, text in enumerate(lines, 1))
        if reply is None:
            reply = POLITE.get(verb, "500 5.5.1 what?")
        writer = session.writer
        if reply is Act.SILENCE:
            while await session.reader.read(65536):
                pass
        if reply is Act.RESET:
            connection: socket.socket = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if isinstance(reply, Act):
            return "" if reply is Act.ABSORB else None
        await self._send(writer, reply.encode("latin-1") + b"\r\n")
        return reply

    async def _send(self, writer: asyncio.StreamWriter, reply: bytes) -> None:
        if not self.bytewise:
            writer.write(reply)
            await writer.drain()
            return
        for byte in reply:
            writer.write(bytes([byte]))
            await asyncio.sleep(0)


@asynccontextmanager
async def scripted_relay(
    script: Script = lambda _verb, _line: None,
    *,
    extensions: tuple[str, ...] = ("PIPELINING", "ENHANCEDSTATUSCODES", "8BITMIME", "SMTPUTF8"),
    bytewise: bool = False,
) -> AsyncIterator[ScriptedRelay]:
    """A server on a free port, which runs as long as the block."""
    relay = ScriptedRelay(0, script, extensions, bytewise)
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        with contextlib.suppress(asyncio.CancelledError):
            await relay.serve(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=2**20)
    relay.port = server.sockets[0].getsockname()[1]
    try:
        yield relay
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for session in relay.sessions:
            session.writer.transport.abort()
        await server.wait_closed()

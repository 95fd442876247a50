"""An SMTP server (RFC 5321) with PIPELINING (RFC 2920), 8BITMIME, SMTPUTF8 and SIZE; no relaying, TLS or AUTH.

Two kinds of addresses misbehave, for the demo. `refused...@` is refused for good (550 5.1.1). `deferred...@` is
deferred once (451 4.2.0) and accepted the next time; a restart forgets which were deferred.
"""

import asyncio
import re
from collections.abc import Callable
from email.utils import formatdate
from typing import ClassVar, cast

from cli.mailbox.maildir import Maildir

MAX_MESSAGE_BYTES = 50_000_000
MAX_LINE = 4096
IDLE_SECONDS = 300
MAX_RECIPIENTS = 100

_MAIL = re.compile(rb"FROM:\s*<([^<>\r\n]*)>(?:\s+(.*))?", re.IGNORECASE)
_RCPT = re.compile(rb"TO:\s*<([^<>\r\n]+@[^<>\r\n]+)>(?:\s+.*)?", re.IGNORECASE)
_END = b"\r\n.\r\n"


class Mailbox:
    """Shared by all connections: the Maildir, and which addresses were deferred once."""

    def __init__(self, maildir: Maildir) -> None:
        self.maildir = maildir
        self.connections: set[SmtpConnection] = set()
        self._deferred: set[str] = set()

    def refusal(self, recipient: str) -> str | None:
        """The reply that refuses a recipient; None to accept it."""
        local = recipient.partition("@")[0].lower()
        if local.startswith("refused"):
            return "550 5.1.1 No such mailbox here: the demo refuses this address"
        if local.startswith("deferred"):
            if recipient not in self._deferred:
                self._deferred.add(recipient)
                return "451 4.2.0 Mailbox busy: the demo defers this address once"
            self._deferred.discard(recipient)
        return None

    async def serve(self, host: str, port: int) -> asyncio.Server:
        """Starts to listen. Raises OSError if the port is taken."""
        return await asyncio.get_running_loop().create_server(lambda: SmtpConnection(self), host, port, backlog=512)

    def close(self) -> None:
        for connection in tuple(self.connections):
            connection.close()


class SmtpConnection(asyncio.Protocol):
    """One connection. Answers commands in order; the replies to a pipelined group leave in one write."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._buffer = bytearray()
        self._searched = 0  # bytes of the body already searched for its end
        self._in_body = False
        self._greeted = False
        self._replies: list[str] = []
        self._sender: str | None = None
        self._recipients: list[str] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports are no subclass of it
        self._mailbox.connections.add(self)
        self._reply("220 mailbox.localhost ESMTP VashSender development mailbox")
        self._flush()
        self._wait()

    def connection_lost(self, error: Exception | None) -> None:
        self._mailbox.connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while self._take_body() if self._in_body else self._take_command():
            pass
        self._flush()
        self._wait()

    def close(self) -> None:
        """Sends 421 and closes the connection."""
        if self._transport is not None:
            self._reply("421 4.3.2 The mailbox closes")
            self._flush()
            self._transport.close()

    def _take_command(self) -> bool:
        end = self._buffer.find(b"\r\n")
        if end < 0 or self._transport is None or self._transport.is_closing():
            if end < 0 and len(self._buffer) > MAX_LINE:
                self._hang_up("500 5.5.2 Line too long")
            return False
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        verb, _, argument = line.partition(b" ")
        handler = self._VERBS.get(verb.upper())
        if handler is None:
            self._reply("500 5.5.2 Command not known")
        else:
            handler(self, argument.strip())
        return True

    def _take_body(self) -> bool:
        if self._buffer.startswith(b".\r\n"):  # an empty body
            body, taken = b"", 3
        else:
            end = self._buffer.find(_END, self._searched)
            if end < 0:
                self._searched = max(0, len(self._buffer) - len(_END) + 1)
                if len(self._buffer) > MAX_MESSAGE_BYTES:
                    self._hang_up("552 5.3.4 Message too big")
                return False
            body, taken = bytes(self._buffer[: end + 2]), end + len(_END)
        del self._buffer[:taken]
        self._in_body, self._searched = False, 0
        self._store(body.removeprefix(b".").replace(b"\r\n.", b"\r\n"))
        return True

    def _store(self, body: bytes) -> None:
        envelope = [f"Return-Path: <{self._sender}>"]
        envelope += [f"Delivered-To: {recipient}" for recipient in self._recipients]
        envelope.append(f"Received: by mailbox.localhost with ESMTP; {formatdate()}")
        try:
            key = self._mailbox.maildir.store("\r\n".join([*envelope, ""]).encode(), body)
        except OSError as error:
            self._reply(f"452 4.3.1 Cannot store: {error.strerror}")
        else:
            self._reply(f"250 2.0.0 Kept as {key.partition('.M')[0]}-{key.partition('Q')[2].partition('.')[0]}")
        self._reset()

    def _ehlo(self, argument: bytes) -> None:
        self._greeted = bool(argument)
        self._reset()
        if not argument:
            self._reply("501 5.5.4 EHLO needs a name")
            return
        self._reply(
            f"250-mailbox.localhost\r\n250-PIPELINING\r\n250-SIZE {MAX_MESSAGE_BYTES}\r\n"
            "250-8BITMIME\r\n250-ENHANCEDSTATUSCODES\r\n250 SMTPUTF8"
        )

    def _helo(self, argument: bytes) -> None:
        self._greeted = bool(argument)
        self._reset()
        self._reply("250 mailbox.localhost" if argument else "501 5.5.4 HELO needs a name")

    def _mail(self, argument: bytes) -> None:
        match = _MAIL.fullmatch(argument)
        if not self._greeted or self._sender is not None:
            self._reply("503 5.5.1 MAIL comes after EHLO, once")
        elif match is None:
            self._reply("501 5.5.4 MAIL FROM:<address>")
        else:
            self._sender = match.group(1).decode("utf-8", "replace")
            self._reply("250 2.1.0 Ok")

    def _rcpt(self, argument: bytes) -> None:
        match = _RCPT.fullmatch(argument)
        if self._sender is None:
            self._reply("503 5.5.1 RCPT comes after MAIL")
        elif match is None:
            self._reply("501 5.1.3 RCPT TO:<address>")
        elif len(self._recipients) >= MAX_RECIPIENTS:
            self._reply("452 4.5.3 Too many recipients")
        else:
            recipient = match.group(1).decode("utf-8", "replace")
            refusal = self._mailbox.refusal(recipient)
            if refusal is None:
                self._recipients.append(recipient)
            self._reply(refusal or "250 2.1.5 Ok")

    def _data(self, argument: bytes) -> None:
        if not self._recipients:
            self._reply("503 5.5.1 DATA comes after RCPT")
            return
        self._in_body = True
        self._reply("354 End data with <CRLF>.<CRLF>")

    def _rset(self, argument: bytes) -> None:
        self._reset()
        self._reply("250 2.0.0 Ok")

    def _noop(self, argument: bytes) -> None:
        self._reply("250 2.0.0 Ok")

    def _vrfy(self, argument: bytes) -> None:
        self._reply("252 2.5.0 Send it and see")

    def _quit(self, argument: bytes) -> None:
        self._hang_up("221 2.0.0 Bye")

    def _reset(self) -> None:
        self._sender = None
        self._recipients = []

    def _hang_up(self, reply: str) -> None:
        self._reply(reply)
        self._flush()
        self._buffer.clear()
        if self._transport is not None:
            self._transport.close()

    def _reply(self, text: str) -> None:
        self._replies.append(text)

    def _flush(self) -> None:
        if self._replies and self._transport is not None:
            self._transport.write("\r\n".join([*self._replies, ""]).encode())
        self._replies.clear()

    def _wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(IDLE_SECONDS, self.close)

    _VERBS: ClassVar[dict[bytes, Callable[["SmtpConnection", bytes], None]]] = {
        b"EHLO": _ehlo,
        b"HELO": _helo,
        b"MAIL": _mail,
        b"RCPT": _rcpt,
        b"DATA": _data,
        b"RSET": _rset,
        b"NOOP": _noop,
        b"VRFY": _vrfy,
        b"QUIT": _quit,
    }

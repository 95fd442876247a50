"""The doors: LMTP (RFC 2033) behind a mail server of yours, and SMTP (RFC 5321). They take mail for bounce domains
only, and never send any. A mail gets its 250 once its report is in the ledger.
"""

import asyncio
import logging
import time
from collections import Counter
from typing import Any
from uuid import UUID

from aiosmtpd.lmtp import LMTP
from aiosmtpd.smtp import SMTP, Envelope, Session

from services.feedback.addresses import Addresses, UnknownAddressError, WrongTokenError
from services.feedback.content import EndlessError, read_content
from services.feedback.metrics import FeedbackMetrics
from services.feedback.recorder import Recorder
from shared import logs
from shared.errors import ConfigurationError
from shared.feedback.read import digest, read
from shared.ledger import probes
from shared.ledger.database import in_a_line, is_unavailable
from shared.ledger.probes import Arrival
from shared.settings import FeedbackSettings

IDLE_SECONDS = 60.0
MOST_COMMANDS = 1000
"""Of one kind, on one connection."""

LINE_BUFFER = 65_536
"""Octets that a connection reads ahead."""

SMALL_BYTES = 50_000
"""A report up to this size is read at once, a larger one in a thread."""

log = logs.get()
logging.getLogger("mail.log").setLevel(logging.ERROR)  # aiosmtpd logs each line, addresses among them


class Mail(Envelope):
    """A mail that comes in."""

    #: The project of the address that it is for, once that was taken; None for `postmaster` without a domain.
    project_id: UUID | None = None


class Handler:
    """What aiosmtpd asks of us."""

    def __init__(self, settings: FeedbackSettings, addresses: Addresses, recorder: Recorder, metrics: FeedbackMetrics):
        self._addresses = addresses
        self._recorder = recorder
        self._metrics = metrics
        self._rate = _Rate(settings.feedback_mails_per_second)

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Mail, address: str, rcpt_options: list[str]
    ) -> str:
        """Whether mail to an address is taken; one recipient per mail, because a report has one."""
        if envelope.rcpt_tos:
            return self._refuse("too_many_recipients", "452 4.5.3 One recipient at a time")
        try:
            envelope.project_id = await self._addresses.check(address)
        except UnknownAddressError:
            return self._refuse("unknown_address", "550 5.1.1 No mail is taken for this address")
        except WrongTokenError:
            return self._refuse("wrong_token", "550 5.1.1 This address was not made here")
        except Exception as error:  # noqa: BLE001 - the client is told to come again
            return self._failed(error)
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(rcpt_options)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Mail) -> str:  # noqa: N802
        """Reads a mail, and answers once it is recorded."""
        if not self._rate.take():
            return self._refuse("busy", "451 4.3.2 Too many mails at once, try again later")
        octets = envelope.original_content or b""
        rcpt = envelope.rcpt_tos[0]
        sender = "" if envelope.mail_from in (None, "<>") else envelope.mail_from
        if (token := probes.token_in(rcpt)) is not None:
            protocol = "lmtp" if isinstance(server, LMTP) else "smtp"
            return await self._probe(token, Arrival(protocol, _peer(session), session.host_name or "", sender, octets))
        if len(octets) <= SMALL_BYTES:
            found, of_mail = read(octets, rcpt, sender), digest(octets, rcpt)
        else:
            found = await asyncio.to_thread(read, octets, rcpt, sender)
            of_mail = await asyncio.to_thread(digest, octets, rcpt)
        try:
            outcome = await self._recorder.record(found, of_mail, envelope.project_id)
        except Exception as error:  # noqa: BLE001 - the client is told to come again
            return self._failed(error)
        return f"250 2.0.0 {outcome.result}"

    async def _probe(self, token: str, arrival: Arrival) -> str:
        if len(arrival.message) > probes.MOST_BYTES:
            return self._refuse("too_long", "552 5.3.4 A probe is short")
        try:
            is_new = await self._recorder.record_probe(token, arrival)
        except Exception as error:  # noqa: BLE001 - the client is told to come again
            return self._failed(error)
        return f"250 2.0.0 {'recorded' if is_new else 'repeated'}"

    async def handle_exception(self, error: Exception) -> str:
        """An error of ours, or a client that says no SMTP."""
        log.warning("mail.failed", error=in_a_line(error))
        return "451 4.3.0 Try again later"

    def _failed(self, error: Exception) -> str:
        if is_unavailable(error):
            log.warning("database.unreachable", error=in_a_line(error))
        else:
            log.exception("report.failed")
        return self._refuse("database", "451 4.3.0 It cannot be recorded now, try again later")

    def _refuse(self, reason: str, reply: str) -> str:
        self._metrics.refused.labels(reason).inc()
        return reply


def _peer(session: Session) -> str:
    return str(session.peer[0]) if isinstance(session.peer, tuple) and session.peer else ""


class _Rate:
    """So many a second, over all connections."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._most = max(per_second, 1.0)  # else a rate below one would never allow any
        self._left = self._most
        self._at = time.monotonic()

    def take(self) -> bool:
        now = time.monotonic()
        self._left = min(self._most, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class _Bounds:
    """Counts connections, over all doors."""

    def __init__(self, settings: FeedbackSettings, metrics: FeedbackMetrics) -> None:
        self._most = settings.feedback_connections
        self._most_of_one = settings.feedback_connections_per_address
        self._metrics = metrics
        self._by_address: Counter[str] = Counter()

    def enter(self, address: str) -> bool:
        if self._by_address.total() >= self._most or self._by_address[address] >= self._most_of_one:
            self.refused("busy")
            return False
        self._by_address[address] += 1
        self._metrics.connections.set(self._by_address.total())
        return True

    def refused(self, reason: str) -> None:
        self._metrics.refused.labels(reason).inc()

    def leave(self, address: str) -> None:
        self._by_address[address] -= 1
        self._by_address += Counter()  # without those that are at zero
        self._metrics.connections.set(self._by_address.total())


class _Door(SMTP):
    """A protocol of aiosmtpd with our bounds."""

    line_length_limit = LINE_BUFFER
    bounds: _Bounds
    _counted: str | None = None

    def _create_envelope(self) -> Mail:
        return Mail()

    async def smtp_DATA(self, arg: str) -> None:  # noqa: N802 - aiosmtpd's name
        """As aiosmtpd does it, but with bounds: see `content.py`."""
        if await self.check_helo_needed():
            return
        if arg or self.envelope is None or not self.envelope.rcpt_tos:
            await self.push("501 Syntax: DATA" if arg else "503 Error: need RCPT command")
            return
        await self.push("354 End data with <CR><LF>.<CR><LF>")
        try:
            octets = await read_content(self._reader, self.data_size_limit or 0)
        except EndlessError:
            self.bounds.refused("too_long")
            self._writer.transport.abort()
            return
        if octets is None:
            self.bounds.refused("too_long")
            answer = "552 5.3.4 Too much mail data"
        else:
            self.envelope.original_content = octets
            answer = await self._call_handler_hook("DATA")
        self._set_post_data_state()  # type: ignore[no-untyped-call]
        await self.push(answer)

    def connection_made(self, transport: Any) -> None:
        peer = transport.get_extra_info("peername")
        address = str(peer[0]) if isinstance(peer, tuple) and peer else "local"
        if not self.bounds.enter(address):
            transport.write(b"421 4.3.2 Too many connections, try again later\r\n")
            transport.close()
            return
        self._counted = address
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self._counted is None:
            return
        self.bounds.leave(self._counted)
        self._counted = None
        super().connection_lost(error)


class _LmtpDoor(_Door, LMTP):
    pass


class Doors:
    """The two ports."""

    def __init__(self, settings: FeedbackSettings, handler: Handler, metrics: FeedbackMetrics) -> None:
        self._settings = settings
        self._handler = handler
        self._bounds = _Bounds(settings, metrics)

    async def run(self) -> None:
        """Takes mail in until it is cancelled. Raises ConfigurationError if a port is taken."""
        servers = []
        try:
            for port, kind in ((self._settings.lmtp_port, _LmtpDoor), (self._settings.smtp_port, _Door)):
                if port:
                    servers.append(await self._open(port, kind))
            await asyncio.Event().wait()
        finally:
            for server in servers:
                server.close()

    async def _open(self, port: int, kind: type[_Door]) -> asyncio.Server:
        host = self._settings.feedback_host
        try:
            return await asyncio.get_running_loop().create_server(lambda: self._protocol(kind), host, port)
        except OSError as error:
            raise ConfigurationError(
                f"port {port} of {host} cannot be opened: {error.strerror}. Set VASHSENDER_LMTP_PORT or"
                " VASHSENDER_SMTP_PORT, or stop what uses it."
            ) from error

    def _protocol(self, kind: type[_Door]) -> asyncio.BaseProtocol:
        protocol = kind(
            self._handler,
            data_size_limit=self._settings.feedback_max_bytes,
            enable_SMTPUTF8=True,
            hostname=self._settings.feedback_hostname or None,
            ident="VashSender",
            timeout=IDLE_SECONDS,
            command_call_limit=MOST_COMMANDS,
            loop=asyncio.get_running_loop(),
        )
        protocol.bounds = self._bounds
        return protocol

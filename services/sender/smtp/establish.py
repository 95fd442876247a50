"""From nothing to a connection that may carry emails: TCP, banner, TLS, EHLO, AUTH. aiosmtplib does the talking."""

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

import aiosmtplib

from services.sender.smtp.config import EngineConfig, RelayConfig, Tls
from shared.relays.replies import Reply, Stage

PhaseSeconds = Callable[[Stage, float], None]


class EstablishError(ConnectionError):
    """The relay cannot be used now: `stage` and `reply` say where it failed and with which words.

    `reply.code` is 0 where the relay said nothing."""

    def __init__(self, stage: Stage, reply: Reply) -> None:
        super().__init__(f"{stage}: {reply.code or ''} {reply.text}".replace(":  ", ": "))
        self.stage = stage
        self.reply = reply


@dataclass(frozen=True, slots=True)
class Session:
    """An established transport, greeted and authenticated, and what the relay offers on it."""

    transport: asyncio.Transport
    pipelining: bool
    smtputf8: bool
    size_limit: int | None  # bytes; None where the relay names none


@dataclass(frozen=True, slots=True)
class Probe:
    """What a relay showed when it was asked: for a check before campaigns, and for readiness."""

    relay: str
    tls: str | None  # version and cipher; None in the clear
    authenticated: bool
    pipelining: bool
    smtputf8: bool
    size_limit: int | None
    seconds: float


async def probe(relay: RelayConfig, config: EngineConfig | None = None) -> Probe:
    """Connect, greet, encrypt, authenticate, and leave without sending anything. Raises `EstablishError`."""
    config = config or EngineConfig()
    loop = asyncio.get_running_loop()
    since = loop.time()
    session = await establish(relay, config, tls_context(relay), lambda _stage, _seconds: None)
    seconds = loop.time() - since
    tls = session.transport.get_extra_info("ssl_object")
    await _take_leave(session.transport, config.quit_seconds)
    return Probe(
        relay=relay.name,
        tls=f"{tls.version()} {tls.cipher()[0]}" if tls is not None else None,
        authenticated=relay.username is not None,
        pipelining=session.pipelining,
        smtputf8=session.smtputf8,
        size_limit=session.size_limit,
        seconds=seconds,
    )


def tls_context(relay: RelayConfig) -> ssl.SSLContext | None:
    """The one context that all of a relay's connections share (so that TLS sessions may too)."""
    if relay.tls is Tls.NONE:
        return None
    context = ssl.create_default_context(cafile=relay.ca_file)
    if relay.own_ca_file is not None and relay.ca_file is None:
        context.load_verify_locations(relay.own_ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not relay.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


async def establish(
    relay: RelayConfig, config: EngineConfig, context: ssl.SSLContext | None, phase: PhaseSeconds
) -> Session:
    """Connect, greet, encrypt, authenticate. Raises `EstablishError`; leaves no socket behind when it does."""
    smtp = aiosmtplib.SMTP(
        hostname=relay.host,
        port=relay.port,
        local_hostname=relay.helo,
        use_tls=relay.tls is Tls.IMPLICIT,
        start_tls=False,
        tls_context=context,
        timeout=config.connect_seconds,
    )
    loop = asyncio.get_running_loop()
    stage, since = Stage.CONNECT, loop.time()
    try:
        await smtp.connect()
        phase(Stage.CONNECT, loop.time() - since)
        if relay.tls is Tls.STARTTLS:
            stage, since = Stage.EHLO, loop.time()
            await smtp.ehlo(timeout=config.ehlo_seconds)
            stage = Stage.TLS
            await smtp.starttls(timeout=config.tls_seconds)
            phase(Stage.TLS, loop.time() - since)
        stage, since = Stage.EHLO, loop.time()
        await _greet(smtp, config)
        phase(Stage.EHLO, loop.time() - since)
        if relay.username is not None and relay.password is not None:
            stage, since = Stage.AUTH, loop.time()
            await smtp.login(relay.username, relay.password, timeout=config.auth_seconds)
            phase(Stage.AUTH, loop.time() - since)
        if smtp.transport is None or smtp.transport.is_closing():
            raise aiosmtplib.SMTPServerDisconnected("Connection lost")
        return _session(smtp)
    except Exception as error:
        # Whatever a server says, and whatever aiosmtplib makes of it, is a relay that cannot be used.
        _abort(smtp)
        raise EstablishError(_failed_stage(stage, error), _failure(error)) from error
    except BaseException:
        _abort(smtp)
        raise


class _Farewell(asyncio.Protocol):
    """Waits for any answer, or for the end."""

    def __init__(self) -> None:
        self.heard = asyncio.Event()

    def data_received(self, _data: bytes) -> None:
        self.heard.set()

    def connection_lost(self, _exc: Exception | None) -> None:
        self.heard.set()


async def _take_leave(transport: asyncio.Transport, seconds: float) -> None:
    farewell = _Farewell()
    transport.set_protocol(farewell)
    transport.write(b"QUIT\r\n")
    with suppress(TimeoutError):
        await asyncio.wait_for(farewell.heard.wait(), seconds)
    transport.abort()


async def _greet(smtp: aiosmtplib.SMTP, config: EngineConfig) -> None:
    try:
        await smtp.ehlo(timeout=config.ehlo_seconds)
    except aiosmtplib.SMTPHeloError as error:
        if error.code not in (500, 501, 502, 504):
            raise
        await smtp.helo(timeout=config.ehlo_seconds)  # a server from before 1995, or behind a "fixup" firewall


def _session(smtp: aiosmtplib.SMTP) -> Session:
    size = smtp.esmtp_extensions.get("size", "")
    return Session(
        transport=cast(asyncio.Transport, smtp.transport),
        pipelining=smtp.supports_extension("pipelining"),
        smtputf8=smtp.supports_extension("smtputf8"),
        size_limit=int(size) if size.isascii() and size.isdecimal() and int(size) > 0 else None,
    )


def _failed_stage(stage: Stage, error: Exception) -> Stage:
    if stage is not Stage.CONNECT:
        return stage
    if isinstance(error.__cause__, ssl.SSLError):
        return Stage.TLS
    # aiosmtplib reads the banner inside connect(); only then is the cause one of its own errors
    if isinstance(error, aiosmtplib.SMTPResponseException) or isinstance(error.__cause__, aiosmtplib.SMTPException):
        return Stage.BANNER
    return Stage.CONNECT


def _failure(error: Exception) -> Reply:
    if isinstance(error, aiosmtplib.SMTPResponseException):
        code = error.code if 200 <= error.code < 600 else 0
        return Reply(code, error.message.encode("utf-8", "surrogateescape"))
    text = error.message if isinstance(error, aiosmtplib.SMTPException) else str(error) or type(error).__name__
    return Reply(0, text.encode("utf-8", "replace"))


def _abort(smtp: aiosmtplib.SMTP) -> None:
    if smtp.transport is not None:
        cast(asyncio.Transport, smtp.transport).abort()

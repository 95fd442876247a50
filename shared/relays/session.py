"""From nothing to a session that may carry emails: TCP, banner, TLS, EHLO, AUTH. aiosmtplib does the talking."""

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import aiosmtplib

from shared.relays.config import RelayConfig, Tls
from shared.relays.replies import Reply, Stage

NO_EHLO_CODES = (500, 501, 502, 504)
"""Replies to EHLO of servers that know only HELO: from before 1995, or behind a "fixup" firewall."""

PhaseSeconds = Callable[[Stage, float], None]
"""Called after each stage with the seconds it took."""


class EstablishError(ConnectionError):
    """The relay cannot be used now. `reply.code` is 0 where the relay said nothing."""

    def __init__(self, stage: Stage, reply: Reply) -> None:
        super().__init__(f"{stage}: {reply.code or ''} {reply.text}".replace(":  ", ": "))
        self.stage = stage
        self.reply = reply


@dataclass(frozen=True, slots=True)
class Session:
    """An established transport, greeted and authenticated, and what the relay offers on it."""

    transport: asyncio.Transport
    #: Whether it offers AUTH (RFC 4954), needed or not.
    auth: bool
    #: Whether it offers PIPELINING (RFC 2920).
    pipelining: bool
    #: Whether it offers SMTPUTF8 (RFC 6531).
    smtputf8: bool
    #: Bytes of the largest message it takes (RFC 1870); None if it names no limit.
    size_limit: int | None


async def establish(
    relay: RelayConfig,
    context: ssl.SSLContext | None,
    stage_seconds: float,
    phase: PhaseSeconds = lambda _stage, _seconds: None,
) -> Session:
    """Connect, greet, encrypt, authenticate; each may take `stage_seconds`. `context` is the relay's `tls_context()`.

    Raises EstablishError, and leaves no socket open if it does."""
    return _session(await connect(relay, context, stage_seconds, phase))


async def connect(
    relay: RelayConfig,
    context: ssl.SSLContext | None,
    stage_seconds: float,
    phase: PhaseSeconds = lambda _stage, _seconds: None,
) -> aiosmtplib.SMTP:
    """The same, as a client that sends single emails."""
    smtp = aiosmtplib.SMTP(
        hostname=relay.host,
        port=relay.port,
        local_hostname=relay.helo,
        use_tls=relay.tls is Tls.IMPLICIT,
        start_tls=False,
        tls_context=context,
        timeout=stage_seconds,
    )
    loop = asyncio.get_running_loop()
    stage, since = Stage.CONNECT, loop.time()
    try:
        await smtp.connect()
        phase(Stage.CONNECT, loop.time() - since)
        if relay.tls is Tls.STARTTLS:
            stage, since = Stage.EHLO, loop.time()
            await smtp.ehlo()
            stage = Stage.TLS
            await smtp.starttls()
            phase(Stage.TLS, loop.time() - since)
        stage, since = Stage.EHLO, loop.time()
        await _greet(smtp)
        phase(Stage.EHLO, loop.time() - since)
        if relay.login is not None:
            stage, since = Stage.AUTH, loop.time()
            await smtp.login(relay.login.user, relay.login.password)
            phase(Stage.AUTH, loop.time() - since)
        if smtp.transport is None or smtp.transport.is_closing():
            raise aiosmtplib.SMTPServerDisconnected("Connection lost")
        return smtp
    except Exception as error:
        # Whatever a server says, and whatever aiosmtplib makes of it, the relay cannot be used.
        _abort(smtp)
        raise EstablishError(_failed_stage(stage, error), _failure(error)) from error
    except BaseException:
        _abort(smtp)
        raise


async def _greet(smtp: aiosmtplib.SMTP) -> None:
    try:
        await smtp.ehlo()
    except aiosmtplib.SMTPHeloError as error:
        if error.code not in NO_EHLO_CODES:
            raise
        await smtp.helo()


def _session(smtp: aiosmtplib.SMTP) -> Session:
    size = smtp.esmtp_extensions.get("size", "")
    return Session(
        transport=cast(asyncio.Transport, smtp.transport),
        auth=smtp.supports_extension("auth"),
        pipelining=smtp.supports_extension("pipelining"),
        smtputf8=smtp.supports_extension("smtputf8"),
        size_limit=int(size) if size.isascii() and size.isdecimal() and int(size) > 0 else None,
    )


def _failed_stage(stage: Stage, error: Exception) -> Stage:
    if stage is not Stage.CONNECT:
        return stage
    if isinstance(error.__cause__, ssl.SSLError):
        return Stage.TLS
    # aiosmtplib reads the banner inside connect(); only then does the cause come from aiosmtplib.
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

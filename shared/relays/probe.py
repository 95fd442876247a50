"""Asks a relay what it can do, without sending anything."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass

from shared.relays.config import RelayConfig
from shared.relays.session import establish

QUIT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Probe:
    """What a relay showed."""

    #: TLS version and cipher; None in the clear.
    tls: str | None
    #: Whether it offers AUTH. If the relay has a login, the login was accepted.
    auth: bool
    pipelining: bool
    smtputf8: bool
    #: Bytes; None if the relay names no limit.
    size_limit: int | None


async def probe(relay: RelayConfig, stage_seconds: float) -> Probe:
    """Connect as a sender does, and leave. Each stage may take `stage_seconds`.

    Raises EstablishError, or ConfigurationError if an authority cannot be used."""
    session = await establish(relay, relay.tls_context(), stage_seconds)
    tls = session.transport.get_extra_info("ssl_object")
    shown = Probe(
        tls=f"{tls.version()} {tls.cipher()[0]}" if tls is not None else None,
        auth=session.auth,
        pipelining=session.pipelining,
        smtputf8=session.smtputf8,
        size_limit=session.size_limit,
    )
    await _quit(session.transport)
    return shown


class _Farewell(asyncio.Protocol):
    """Waits for any answer, or for the end of the connection."""

    def __init__(self) -> None:
        self.heard = asyncio.Event()

    def data_received(self, _data: bytes) -> None:
        self.heard.set()

    def connection_lost(self, _exc: Exception | None) -> None:
        self.heard.set()


async def _quit(transport: asyncio.Transport) -> None:
    farewell = _Farewell()
    transport.set_protocol(farewell)
    transport.write(b"QUIT\r\n")
    with suppress(TimeoutError):
        await asyncio.wait_for(farewell.heard.wait(), QUIT_SECONDS)
    transport.abort()

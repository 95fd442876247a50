"""A relay, tried by hand: connection, TLS, authentication, and what it offers."""

import asyncio
from dataclasses import dataclass

from shared.errors import ConfigurationError
from shared.relays.config import RelayConfig, Tls
from shared.relays.probe import Probe, probe
from shared.relays.session import EstablishError

TRY_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class RelayTry:
    """The result of one try, in words."""

    #: Host and port.
    name: str
    ok: bool
    found: str


async def try_relay(relay: RelayConfig, stage_seconds: float) -> RelayTry:
    """Connect and authenticate as a sender does, and say what the relay offers. A failing relay raises nothing.

    `stage_seconds` is a sender's limit for each stage; all of them together may take `TRY_SECONDS`."""
    name = f"{relay.host}:{relay.port}"
    try:
        async with asyncio.timeout(TRY_SECONDS):
            shown = await probe(relay, stage_seconds)
    except TimeoutError:
        return RelayTry(name, False, f"no connection within {TRY_SECONDS:g} s")
    except (EstablishError, ConfigurationError) as error:
        return RelayTry(name, False, str(error).splitlines()[0])
    return RelayTry(name, True, _in_words(relay, shown))


def _in_words(relay: RelayConfig, shown: Probe) -> str:
    encryption = "no TLS"
    if shown.tls is not None:
        encryption = f"{'STARTTLS' if relay.tls is Tls.STARTTLS else 'TLS'} ({shown.tls})"
    auth = "accepted" if relay.login is not None else "offered, not used" if shown.auth else "not offered"
    return ", ".join(
        [
            encryption,
            f"AUTH: {auth}",
            "PIPELINING" if shown.pipelining else "no PIPELINING: one round trip per step",
            "SIZE: no limit" if shown.size_limit is None else f"SIZE: up to {shown.size_limit / 1e6:g} MB",
        ]
    )

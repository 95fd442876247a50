"""A relay, tried by hand: connection, TLS, authentication, and what it offers."""

import asyncio
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

import aiosmtplib

TRY_SECONDS = 15.0
PORTS = {"none": 25, "starttls": 587, "implicit": 465}


@dataclass(frozen=True, slots=True)
class RelayTry:
    """What came of it; `name` never holds a password."""

    name: str
    ok: bool
    found: str


async def try_relay(url: str, own_ca_file: Path | None = None) -> RelayTry:
    """Connects as a sender would, authenticates, and says what the relay offers. What the relay does never raises.

    `own_ca_file`: an authority to trust besides the system's, where the URL names none."""
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    tls = "implicit" if parts.scheme == "smtps" else options.get("tls", "starttls")
    port = parts.port or PORTS.get(tls, 25)
    name = f"{parts.hostname}:{port}"
    context = ssl.create_default_context(cafile=options.get("ca_file"))
    if own_ca_file is not None and "ca_file" not in options:
        context.load_verify_locations(own_ca_file)
    if options.get("verify") == "no":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    smtp = aiosmtplib.SMTP(
        hostname=parts.hostname,
        port=port,
        use_tls=tls == "implicit",
        start_tls=tls == "starttls",
        tls_context=context if tls != "none" else None,
        timeout=TRY_SECONDS,
    )
    try:
        async with asyncio.timeout(TRY_SECONDS):
            await smtp.connect()
            found = [_encryption(smtp, tls)]
            await smtp.ehlo()
            offers = smtp.esmtp_extensions
            if parts.username:
                await smtp.login(unquote(parts.username), unquote(parts.password or ""))
                found.append("AUTH: accepted")
            else:
                found.append("AUTH: offered, not used" if "auth" in offers else "AUTH: not offered")
            found.append("PIPELINING" if "pipelining" in offers else "no PIPELINING: one round trip per step")
            found.append(_size(offers.get("size", "")))
            await smtp.quit()
    except (aiosmtplib.SMTPException, OSError, TimeoutError, ValueError) as error:
        return RelayTry(name, False, f"{type(error).__name__}: {error}".splitlines()[0])
    finally:
        smtp.close()
    return RelayTry(name, True, ", ".join(found))


def _encryption(smtp: aiosmtplib.SMTP, tls: str) -> str:
    connection = smtp.transport.get_extra_info("ssl_object") if smtp.transport is not None else None
    if connection is None:
        return "no TLS"
    return f"{'STARTTLS' if tls == 'starttls' else 'TLS'} ({connection.version()})"


def _size(limit: str) -> str:
    """RFC 1870: 0 or nothing says that there is no fixed limit."""
    return f"SIZE: up to {int(limit) / 1e6:g} MB" if limit.strip("0") else "SIZE: no limit told"

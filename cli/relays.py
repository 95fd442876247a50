"""A relay, tried by hand: connection, TLS, authentication, and what it offers."""

import asyncio
import ssl
from dataclasses import dataclass
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


async def try_relay(url: str) -> RelayTry:
    """Connects as a sender would, authenticates, and says what the relay offers. What the relay does never raises."""
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    tls = "implicit" if parts.scheme == "smtps" else options.get("tls", "starttls")
    port = parts.port or PORTS.get(tls, 25)
    name = f"{parts.hostname}:{port}"
    context = ssl.create_default_context(cafile=options.get("ca_file"))
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
            found = [{"none": "no TLS", "starttls": "STARTTLS", "implicit": "TLS"}[tls]]
            await smtp.ehlo()
            if parts.username:
                await smtp.login(unquote(parts.username), unquote(parts.password or ""))
                found.append("authenticated")
            offers = smtp.esmtp_extensions
            found.append("PIPELINING" if "pipelining" in offers else "no PIPELINING: one round trip per step")
            if offers.get("size"):
                found.append(f"up to {int(offers['size']) / 1e6:.0f} MB")
            await smtp.quit()
    except (aiosmtplib.SMTPException, OSError, TimeoutError, ValueError) as error:
        return RelayTry(name, False, f"{type(error).__name__}: {error}".splitlines()[0])
    finally:
        smtp.close()
    return RelayTry(name, True, ", ".join(found))

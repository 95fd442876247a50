"""`vashsender doctor probe`: one email through a relay, and what receivers would make of it."""

import asyncio
import time
from dataclasses import dataclass, replace
from email.utils import formatdate
from ipaddress import ip_address
from uuid import uuid4

import aiosmtplib
from sqlalchemy.ext.asyncio import AsyncConnection

from cli.access import ledger_of
from cli.settings import LocalSettings
from shared.addresses import parse_address
from shared.deliverability import arrival
from shared.deliverability.arrival import Arrived
from shared.deliverability.check import Finding, Verdict
from shared.deliverability.dns import Dns
from shared.errors import DataError
from shared.ledger import domains, probes
from shared.ledger.database import Ledger
from shared.ledger.probes import Arrival
from shared.messages.dkim import load_signers
from shared.messages.message import CampaignHeaders, MessageBuilder
from shared.relays.config import RelayConfig
from shared.relays.session import EstablishError, connect
from shared.relays.url import relays_of
from shared.templates import compile_content

POLL_SECONDS = 0.5
SUBJECT = "VashSender probe"
TEXT = "`vashsender doctor probe` has sent this email to see how it arrives. Nothing needs to be done."


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for."""

    address: str
    #: Address in From; empty: of the first domain whose bounces go where the probe goes.
    sender: str = ""
    #: Name of a relay; empty: the first.
    relay: str = ""
    #: How long to wait for the email.
    wait_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class _Envelope:
    """From whom, and to whom."""

    author: str
    #: Of MAIL FROM, if the relay lets it through; None: MAIL FROM is the author.
    bounce_domain: str | None
    address: str
    #: Whether the feedback service takes it, by a token instead of the local part.
    taken_here: bool


@dataclass(frozen=True, slots=True)
class _Letter:
    """One email with its envelope."""

    mail_from: str
    rcpt_to: str
    message: bytes


async def probe(config: LocalSettings, wanted: Wanted) -> list[Finding]:
    """Sends one email, and judges what arrived. Raises AddressError, DataError, ConfigurationError and
    UnavailableError."""
    address = parse_address(wanted.address).email
    relay = _relay(config, wanted.relay)
    dns = Dns(config.dns_servers)
    async with ledger_of(config) as ledger:
        async with ledger.write() as connection:
            envelope = await _envelope(connection, wanted.sender, address, relay)
            token = await probes.announce(connection)
        try:
            letter = _letter(config, envelope, token)
            sent, is_sent = await _send(relay, letter, config.smtp_connect_seconds)
            if not is_sent:
                return [sent]
            if not envelope.taken_here:
                return [sent, *await _as_it_left(dns, letter), _elsewhere(address)]
            found = await _awaited(ledger, token, wanted.wait_seconds)
        finally:
            async with ledger.write() as connection:
                await probes.forget(connection, token)
    if found is None:
        advice = f"look at the relay's log; `doctor domain` checks the MX; feedback must take mail for {letter.rcpt_to}"
        return [sent, Finding("arrival", Verdict.WRONG, f"nothing within {wanted.wait_seconds:g} s", advice)]
    return [sent, *await arrival.judge(dns, _as_seen(found), letter.mail_from)]


def _relay(config: LocalSettings, name: str) -> RelayConfig:
    relays = relays_of(config)
    for relay in relays:
        if name in ("", relay.name):
            return relay
    raise DataError(f"there is no relay {name!r}. The relays are: {', '.join(relay.name for relay in relays)}")


async def _envelope(connection: AsyncConnection, sender: str, address: str, relay: RelayConfig) -> _Envelope:
    """Raises DataError if no sender is given and none can be chosen."""
    domain = address.rpartition("@")[2]
    bounced = [one for one in await domains.list_domains(connection) if one.bounce_domain == domain]
    if not sender and not bounced:
        raise DataError(f"{domain} is no bounce domain of VashSender: name the sender with --from")
    author = parse_address(sender).email if sender else f"postmaster@{bounced[0].name}"
    owner = await domains.owner(connection, author.rpartition("@")[2])
    return _Envelope(author, owner.bounce_domain if owner and relay.verp else None, address, taken_here=bool(bounced))


def _letter(config: LocalSettings, envelope: _Envelope, token: str) -> _Letter:
    """An email as a sender makes it."""
    own = envelope.author.rpartition("@")[2]
    local = probes.local_part(token)
    to = f"{local}@{envelope.address.rpartition('@')[2]}" if envelope.taken_here else envelope.address
    builder = MessageBuilder(compile_content(SUBJECT, None, TEXT), CampaignHeaders(uuid4(), envelope.author))
    made = builder.build_unsigned(token, to, {}, formatdate())
    signer = load_signers(config.dkim_dir).get(own)
    pieces = signer.sign(made) if signer else (made.head, b"\r\n\r\n", *made.body)
    mail_from = f"{local}@{envelope.bounce_domain}" if envelope.bounce_domain else envelope.author
    return _Letter(mail_from, to, b"".join(pieces))


async def _send(relay: RelayConfig, letter: _Letter, stage_seconds: float) -> tuple[Finding, bool]:
    """What the relay answered, and whether it took the email."""
    name = f"relay {relay.name}"
    try:
        smtp = await connect(relay, relay.tls_context(), stage_seconds)
    except EstablishError as error:
        return Finding(name, Verdict.WRONG, str(error).splitlines()[0], "`vashsender doctor` tries the relays"), False
    try:
        _, said = await smtp.sendmail(letter.mail_from, [letter.rcpt_to], letter.message)
    except (aiosmtplib.SMTPException, OSError) as error:
        found = _one_line(str(error) or type(error).__name__)
        return Finding(name, Verdict.WRONG, found, "docs/replies.md says what replies mean"), False
    finally:
        smtp.close()
    return Finding(name, Verdict.OK, f"it took the email from {letter.mail_from}: {_one_line(said)}"), True


async def _as_it_left(dns: Dns, letter: _Letter) -> list[Finding]:
    signatures = await arrival.verify(dns, letter.message)
    return [replace(one, name=f"{one.name} as it left") for one in arrival.of_signatures(signatures)]


def _elsewhere(address: str) -> Finding:
    advice = (
        "open it there: Authentication-Results names spf, dkim and dmarc, the first Received the outside address and"
        " HELO. A probe to any address at a bounce domain of VashSender is judged here"
    )
    return Finding("arrival", Verdict.UNKNOWN, f"{address} is a mailbox that VashSender does not see", advice)


async def _awaited(ledger: Ledger, token: str, seconds: float) -> Arrival | None:
    until = time.monotonic() + seconds
    while True:
        async with ledger.read() as connection:
            found = await probes.arrival(connection, token)
        if found is not None or time.monotonic() >= until:
            return found
        await asyncio.sleep(POLL_SECONDS)


def _as_seen(found: Arrival) -> Arrived:
    """From the relay itself, or as our mail server noted it."""
    if found.protocol == "lmtp":
        address, helo = arrival.last_hop(found.message)
    else:
        address, helo = ip_address(found.peer), found.helo
    return Arrived(address, helo, found.sender, found.message)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]

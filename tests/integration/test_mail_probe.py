"""`vashsender doctor probe`: a real email through a real relay into the real doors, judged with a DNS server of the
test's own."""

import asyncio
import json
import smtplib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, Envelope, Session
from prometheus_client import CollectorRegistry
from sqlalchemy import func, select

from cli.local.ports import free_port
from cli.mail_probe import Wanted, probe
from cli.main import run
from cli.settings import LocalSettings
from services.feedback.addresses import Addresses
from services.feedback.doors import Doors, Handler
from services.feedback.metrics import FeedbackMetrics
from services.feedback.recorder import Recorder
from shared.deliverability.check import Finding, Verdict
from shared.dkim_keys import new_key
from shared.errors import DataError
from shared.ledger import domains, probes
from shared.ledger.database import Ledger
from shared.ledger.models import DEFAULT_PROJECT
from shared.ledger.report_tables import Probe, Report
from shared.settings import FeedbackSettings, load
from tests.support.dns import DnsServer, dns_server
from tests.support.waiting import until

BOUNCES = "bounces.example.com"
OUTSIDE, HELO = "192.0.2.5", "out.relay.example"
Zone = dict[str, dict[str, list[str]]]
Change = Callable[[bytes], bytes]


@dataclass
class Relay:
    """Takes an email, and brings it to one of the doors."""

    lmtp_port: int
    smtp_port: int
    port: int = 0
    #: `lmtp`, `smtp`, or nowhere.
    door: str = "lmtp"
    #: What a relay on the way does to the message, and to MAIL FROM.
    change: Change = bytes
    sender: str | None = None
    refuses: str = ""
    #: Envelopes that it took: sender and recipient.
    took: list[tuple[str, str]] = field(default_factory=list)

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self.refuses:
            return self.refuses
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        sender = (envelope.mail_from or "") if self.sender is None else self.sender
        [recipient] = envelope.rcpt_tos
        self.took.append((envelope.mail_from or "", recipient))
        assert envelope.original_content is not None
        message = self.change(envelope.original_content)
        if self.door == "lmtp":
            received = (
                f"Received: from {HELO} (unknown [{OUTSIDE}])\r\n\tby mx.example.com (Postfix) with ESMTP; now\r\n"
            )
            await asyncio.to_thread(
                deliver, smtplib.LMTP, self.lmtp_port, sender, recipient, received.encode() + message
            )
        elif self.door == "smtp":
            await asyncio.to_thread(deliver, smtplib.SMTP, self.smtp_port, sender, recipient, message)
        return "250 2.0.0 queued as ABCDEF"


def deliver(kind: Callable[..., Any], port: int, sender: str, recipient: str, message: bytes) -> None:
    with kind("127.0.0.1", port) as client:
        client.sendmail(sender, [recipient], message)


@dataclass
class World:
    ledger: Ledger
    relay: Relay
    dns: DnsServer
    zone: Zone
    config: LocalSettings

    async def probe(self, address: str = f"me@{BOUNCES}", **wanted: Any) -> dict[str, Finding]:
        found = await probe(self.config, Wanted(address, **wanted))
        async with self.ledger.read() as connection:
            assert await connection.scalar(select(func.count()).select_from(Probe)) == 0, "nothing is left"
        return {finding.name: finding for finding in found}


@asynccontextmanager
async def feedback(ledger: Ledger) -> AsyncIterator[FeedbackSettings]:
    ports = {"lmtp_port": free_port(), "smtp_port": free_port()}
    settings = load(FeedbackSettings, **ports, unsubscribe_key="k" * 32)
    metrics = FeedbackMetrics(CollectorRegistry())
    recorder = Recorder(ledger, settings.token_keys, metrics)
    handler = Handler(settings, Addresses(ledger, settings.token_keys), recorder, metrics)
    doors = asyncio.create_task(Doors(settings, handler, metrics).run())
    try:
        for port in ports.values():
            await until(partial(_is_open, port))
        yield settings
    finally:
        doors.cancel()
        await asyncio.gather(doors, return_exceptions=True)


async def _is_open(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


@pytest.fixture
async def world(ledger: Ledger, database_url: str, tmp_path: Path) -> AsyncIterator[World]:
    key = new_key(tmp_path / "dkim", "example.com", "vs1")
    async with ledger.write() as connection:
        domain = await domains.add(connection, "example.com", DEFAULT_PROJECT, "operator")
        await domains.set_bounce_domain(connection, domain, BOUNCES)
    text = key.record_text
    zone: Zone = {
        key.record_name: {"TXT": [" ".join(f'"{text[start : start + 255]}"' for start in range(0, len(text), 255))]},
        "_dmarc.example.com": {"TXT": ['"v=DMARC1; p=reject; rua=mailto:dmarc@example.com"']},
        BOUNCES: {"TXT": [f'"v=spf1 ip4:{OUTSIDE} -all"']},
        HELO: {"A": [OUTSIDE]},
        "5.2.0.192.in-addr.arpa": {"PTR": [f"{HELO}."]},
    }
    async with feedback(ledger) as doors, dns_server(zone) as dns:
        relay = Relay(doors.lmtp_port, doors.smtp_port)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: SMTP(relay, loop=loop), "127.0.0.1", 0)
        relay.port = server.sockets[0].getsockname()[1]
        config = LocalSettings(
            database_url=database_url,
            var_dir=tmp_path,
            dkim_dir=tmp_path / "dkim",
            dns_servers=dns.address,
            relays=f"smtp://127.0.0.1:{relay.port}?tls=none&name=relay&verp=yes",
        )
        try:
            yield World(ledger, relay, dns, zone, config)
        finally:
            server.close()


def wrong(found: dict[str, Finding]) -> dict[str, Verdict]:
    return {name: finding.verdict for name, finding in found.items() if finding.verdict is not Verdict.OK}


async def test_an_email_that_everyone_trusts(world: World) -> None:
    found = await world.probe()
    assert wrong(found) == {}
    expected = ["relay relay", "outside address", "HELO", "PTR", "envelope sender", "SPF", "DKIM vs1", "DMARC"]
    assert list(found) == expected
    assert OUTSIDE in found["outside address"].found
    assert "by SPF and DKIM of example.com" in found["DMARC"].found
    [(sender, recipient)] = world.relay.took
    assert sender == recipient, "bounces of the probe are seen, too"
    assert probes.token_in(recipient) is not None
    async with world.ledger.read() as connection:
        assert await connection.scalar(select(func.count()).select_from(Report)) == 0, "a probe is no report"


def without(name: str) -> Callable[[World], None]:
    def change(world: World) -> None:
        del world.zone[name]

    return change


def with_records(name: str, kind: str, *records: str) -> Callable[[World], None]:
    return lambda world: world.zone.update({name: {kind: list(records)}})


def on_the_way(change: Change) -> Callable[[World], None]:
    return lambda world: setattr(world.relay, "change", change)


FAULTS: dict[str, tuple[Callable[[World], None], dict[str, str]]] = {
    "no PTR": (without("5.2.0.192.in-addr.arpa"), {"PTR": "has no name"}),
    "a PTR that leads elsewhere": (
        with_records("5.2.0.192.in-addr.arpa", "PTR", "other.example."),
        {"PTR": "does not lead back"},
    ),
    "a HELO without address": (without(HELO), {"HELO": "has no address", "PTR": "does not lead back"}),
    "SPF of others": (with_records(BOUNCES, "TXT", '"v=spf1 ip4:198.51.100.1 -all"'), {"SPF": "fail"}),
    "no DKIM record": (without("vs1._domainkey.example.com"), {"DKIM vs1": "there is no TXT record"}),
    "a footer": (
        on_the_way(lambda message: message + b"-- \r\nfooter\r\n"),
        {"DKIM vs1": "the body is not as it was signed"},
    ),
    "another subject": (
        on_the_way(lambda message: message.replace(b"Subject: ", b"Subject: [spam?] ")),
        {"DKIM vs1": "something changed a header"},
    ),
    "no DMARC": (without("_dmarc.example.com"), {"DMARC": "has no record"}),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_each_fault_is_found(world: World, fault: str) -> None:
    break_it, expected = FAULTS[fault]
    break_it(world)
    found = await world.probe()
    assert set(wrong(found)) == set(expected), found
    for name, words in expected.items():
        assert found[name].verdict is Verdict.WRONG, found[name]
        assert words in found[name].found
        assert found[name].advice


async def test_without_spf_and_dkim_dmarc_fails(world: World) -> None:
    world.zone[BOUNCES] = {"TXT": ['"v=spf1 -all"']}
    world.config = world.config.model_copy(update={"dkim_dir": None})
    found = await world.probe()
    assert set(wrong(found)) == {"SPF", "DKIM", "DMARC"}
    assert "no signature" in found["DKIM"].found


async def test_dns_that_fails_makes_nothing_wrong(world: World) -> None:
    world.dns.failing |= {"vs1._domainkey.example.com", "_dmarc.example.com", BOUNCES, "5.2.0.192.in-addr.arpa", HELO}
    found = await world.probe()
    unsure = {"HELO", "PTR", "SPF", "DKIM vs1", "DMARC"}
    assert wrong(found) == dict.fromkeys(unsure, Verdict.UNKNOWN)


async def test_an_email_by_smtp_from_an_inside_address_is_judged_by_its_signature(world: World) -> None:
    world.relay.door = "smtp"
    found = await world.probe()
    assert wrong(found) == {"outside address": Verdict.UNKNOWN, "SPF": Verdict.UNKNOWN}
    assert "127.0.0.1" in found["outside address"].found
    assert "pass for example.com" in found["DMARC"].found


async def test_a_relay_that_replaces_the_envelope_sender_is_named(world: World) -> None:
    world.relay.sender = "account@relay.example"
    world.zone["relay.example"] = {"TXT": [f'"v=spf1 ip4:{OUTSIDE} -all"']}
    found = await world.probe()
    assert wrong(found) == {"envelope sender": Verdict.UNKNOWN}
    assert "by DKIM of example.com" in found["DMARC"].found, "SPF passes, but is not aligned"


async def test_an_email_that_comes_back_is_a_failure(world: World) -> None:
    world.relay.sender = ""
    assert (await world.probe())["envelope sender"].verdict is Verdict.WRONG


async def test_an_email_that_does_not_arrive_is_a_failure(world: World) -> None:
    world.relay.door = "nowhere"
    found = await world.probe(wait_seconds=0.3)
    assert wrong(found) == {"arrival": Verdict.WRONG}


async def test_a_relay_that_refuses_is_quoted(world: World) -> None:
    world.relay.refuses = "550 5.7.1 Not from here"
    found = await world.probe()
    assert wrong(found) == {"relay relay": Verdict.WRONG}
    assert "5.7.1 Not from here" in found["relay relay"].found


async def test_a_mailbox_elsewhere_shows_what_can_be_judged(world: World) -> None:
    with pytest.raises(DataError, match="--from"):
        await world.probe("someone@mail.example")
    world.relay.door = "nowhere"
    found = await world.probe("someone@mail.example", sender="news@example.com")
    assert wrong(found) == {"arrival": Verdict.UNKNOWN}
    assert found["DKIM vs1 as it left"].verdict is Verdict.OK
    assert "Authentication-Results" in found["arrival"].advice
    [(sender, recipient)] = world.relay.took
    assert sender.endswith(f"@{BOUNCES}")
    assert recipient == "someone@mail.example"


async def test_strangers_can_leave_nothing(world: World) -> None:
    async with world.ledger.write() as connection:
        token = await probes.announce(connection)
    address = f"{probes.local_part(token)}@{BOUNCES}"
    unknown = f"{probes.local_part('a' * 32)}@{BOUNCES}"

    async def code(recipient: str, message: bytes) -> int:
        try:
            await asyncio.to_thread(deliver, smtplib.SMTP, world.relay.smtp_port, "x@example.net", recipient, message)
        except smtplib.SMTPRecipientsRefused as error:
            return next(iter(error.recipients.values()))[0]
        except smtplib.SMTPResponseException as error:
            return error.smtp_code
        return 250

    assert await code(unknown, b"Subject: x\r\n\r\nx\r\n") == 550
    assert await code(address, b"Subject: x\r\n\r\n" + b"x\r\n" * 40_000) == 552
    assert await code(address.upper(), b"Subject: first\r\n\r\nx\r\n") == 250
    assert await code(address, b"Subject: second\r\n\r\nx\r\n") == 550, "each probe is taken once"
    async with world.ledger.read() as connection:
        found = await probes.arrival(connection, token)
    assert found is not None
    assert b"first" in found.message


async def test_the_command_shows_the_findings(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("database_url", "var_dir", "dkim_dir", "dns_servers", "relays")
    for name in names:
        value = getattr(world.config, name)
        text = value.get_secret_value() if hasattr(value, "get_secret_value") else str(value)
        monkeypatch.setenv(f"VASHSENDER_{name.upper()}", text)
    del world.zone["5.2.0.192.in-addr.arpa"]
    code = await asyncio.to_thread(run, ["doctor", "probe", f"me@{BOUNCES}", "--json"])
    shown = {entry["name"]: entry["verdict"] for entry in json.loads(capsys.readouterr().out)}
    assert (code, shown["PTR"], shown["DMARC"]) == (1, "wrong", "ok")
    assert await asyncio.to_thread(run, ["doctor", "probe", f"me@{BOUNCES}", "--relay", "other"]) == 65

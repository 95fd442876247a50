"""The doors of the feedback service: what they take, what they refuse, and what they have recorded before their 250."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from cli.local.ports import free_port
from services.feedback.addresses import Addresses
from services.feedback.doors import Doors, Handler
from services.feedback.metrics import FeedbackMetrics
from services.feedback.recorder import Recorder
from shared.ledger import domains, projects, reports
from shared.ledger.database import Ledger
from shared.ledger.models import DEFAULT_PROJECT, Batch, Suppression
from shared.ledger.report_tables import Report
from shared.ledger.reports import Incoming, Outcome
from shared.settings import FeedbackSettings, load
from tests.support.feedback_corpus import ANN, TOKEN, arf, dsn, group
from tests.support.lmtp import BOUNCES, Wire, sent_campaign
from tests.support.waiting import until

SECRET = "0123456789abcdef0123456789abcdef"
REPORT = dsn("MAILER-DAEMON@mx.example.net", "Undelivered", "x", group("failed", "5.1.1", "550 5.1.1 No", final=""))
NOT_TAKEN = "550 5.1.1 No mail is taken for this address"
NOT_OURS = "550 5.1.1 This address was not made here"


class Rig:
    """The service without a process."""

    def __init__(self, ledger: Ledger, **settings: Any) -> None:
        self.ledger = ledger
        given = {"lmtp_port": free_port(), "smtp_port": free_port(), "unsubscribe_key": SECRET, **settings}
        self.settings = load(FeedbackSettings, **given)
        self.metrics = FeedbackMetrics(CollectorRegistry())
        self.recorder = Recorder(ledger, self.settings.token_keys, self.metrics)
        self.addresses = Addresses(ledger, self.settings.token_keys)
        handler = Handler(self.settings, self.addresses, self.recorder, self.metrics)
        self.doors = Doors(self.settings, handler, self.metrics)
        self.tokens: list[str] = []
        self.wires: list[Wire] = []

    async def connect(self, *, smtp: bool = False, patient: bool = False) -> Wire:
        """`patient`: there may be no room for another connection yet."""
        port = self.settings.smtp_port if smtp else self.settings.lmtp_port
        while True:
            with suppress(ConnectionRefusedError):  # it is being opened
                wire = await Wire.open(port)
                self.wires.append(wire)
                greeting = await wire.answer()
                if not (patient and greeting.startswith("421")):
                    break
            await asyncio.sleep(0.01)
        assert greeting.startswith("220")
        assert (await wire.say("EHLO here" if smtp else "LHLO here")).startswith("250")
        return wire

    async def reports(self) -> list[tuple[str, bool, UUID | None]]:
        """Kind, whether it is verified, and project."""
        async with self.ledger.read() as connection:
            found = await connection.execute(
                select(col(Report.kind), col(Report.verified), col(Report.project_id)).order_by(col(Report.id))
            )
            return [(row[0], row[1], row[2]) for row in found]

    def bounce(self, number: int = 0) -> str:
        return f"bounce+{self.tokens[number]}@{BOUNCES}"


async def prepared(rig: Rig, recipients: int) -> Rig:
    rig.tokens = await sent_campaign(rig.ledger, recipients, SECRET.encode())
    return rig


@pytest.fixture
async def rig(ledger: Ledger) -> AsyncIterator[Rig]:
    made = await prepared(Rig(ledger), 3)
    async with running(made):
        yield made


class running:  # noqa: N801 - a context manager
    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> None:
        self._tasks = [
            asyncio.create_task(part.run()) for part in (self._rig.doors, self._rig.addresses, self._rig.recorder)
        ]

    async def __aexit__(self, *_: object) -> None:
        for wire in self._rig.wires:
            await wire.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@pytest.mark.parametrize("smtp", [False, True], ids=["LMTP", "SMTP"])
async def test_a_bounce_is_in_the_ledger_before_its_250(rig: Rig, smtp: bool) -> None:
    wire = await rig.connect(smtp=smtp)
    octets = REPORT.replace(TOKEN.encode(), rig.tokens[0].encode())
    assert await wire.mail(rig.bounce().upper(), octets) == "250 2.0.0 recorded"
    assert await rig.reports() == [("bounced", True, DEFAULT_PROJECT)]
    assert await wire.mail(rig.bounce(), octets) == "250 2.0.0 repeated"
    assert await wire.mail(rig.bounce(1), REPORT) == "250 2.0.0 recorded"
    async with rig.ledger.read() as connection:
        assert await connection.scalar(select(func.sum(col(Batch.bounced)))) == 2
        assert await connection.scalar(select(func.count()).select_from(Suppression)) == 2
    assert (await wire.say("QUIT")).startswith("221")


async def test_what_has_no_token_of_ours_is_refused_before_its_body(rig: Rig, ledger: Ledger) -> None:
    wire = await rig.connect(smtp=True)
    forged = ("a" if rig.tokens[0][0] != "a" else "b") + rig.tokens[0][1:]
    for rcpt in (f"bounce+{forged}@{BOUNCES}", f"bounce+{'a' * 32}@{BOUNCES}"):
        assert await wire.mail(rcpt, REPORT) == NOT_OURS, rcpt
    for rcpt in (
        f"bounce+{rig.tokens[0]}@example.org",
        f"{rig.tokens[0]}@{BOUNCES}",
        f"bounce+x@{BOUNCES}",
        f"bounce+{'ſ' * 32}@{BOUNCES}",
        f"someone@{BOUNCES}",
        "ann@example.net",
        "nobody",
    ):
        assert await wire.mail(rcpt, REPORT) == NOT_TAKEN, rcpt
    async with ledger.write() as connection:
        others = await projects.create(connection, "others")
        domain = await domains.add(connection, "others.example", others.id, "operator")
        await domains.set_bounce_domain(connection, domain, "b.others.example")
    foreign = f"bounce+{rig.tokens[0]}@b.others.example"

    async def is_known() -> bool:
        return await wire.mail(foreign, REPORT) != NOT_TAKEN

    await until(is_known)
    assert await wire.mail(foreign, REPORT) == NOT_OURS
    assert await rig.reports() == []


async def test_complaints_unsubscribes_and_postmaster_are_taken(rig: Rig) -> None:
    wire = await rig.connect()
    about = arf("abuse").replace(TOKEN.encode(), rig.tokens[0].encode())
    assert await wire.mail(f"abuse@{BOUNCES}", about, "feedback@arf.example.net") == "250 2.0.0 recorded"
    leave = f"unsubscribe+{rig.tokens[1]}@{BOUNCES}"
    assert await wire.mail(leave, b"Subject: \n\n", ANN) == "250 2.0.0 recorded"
    assert await wire.mail("postmaster", b"Subject: hello\n\nWho are you?\n", ANN) == "250 2.0.0 unverified"
    assert await wire.mail(f"postmaster@{BOUNCES}", b"Subject: again\n\nx\n", ANN) == "250 2.0.0 unverified"
    away = b"Subject: Out of office\nAuto-Submitted: auto-replied\n\nx\n"
    assert await wire.mail(rig.bounce(2), away) == "250 2.0.0 ignored"
    assert await rig.reports() == [
        ("complained", True, DEFAULT_PROJECT),
        ("unsubscribed", True, DEFAULT_PROJECT),
        ("unknown", False, None),
        ("unknown", False, DEFAULT_PROJECT),
    ]


async def test_one_recipient_at_a_time(rig: Rig) -> None:
    wire = await rig.connect()
    await wire.say("MAIL FROM:<>")
    assert (await wire.say(f"RCPT TO:<{rig.bounce(0)}>")).startswith("250")
    assert (await wire.say(f"RCPT TO:<{rig.bounce(1)}>")).startswith("452 4.5.3")


async def test_mails_are_bounded(ledger: Ledger) -> None:
    rig = await prepared(Rig(ledger, feedback_max_bytes=10_000), 1)
    async with running(rig):
        wire = await rig.connect()
        assert (await wire.mail(rig.bounce(), REPORT + b"x\n" * 10_000)).startswith("552")
        assert (await wire.mail(rig.bounce(), REPORT)).startswith("250")


async def test_long_lines_and_long_mails_are_taken(rig: Rig) -> None:
    wire = await rig.connect()
    long_line = b"\n" + b"x" * 300_000 + b"\n"
    assert await wire.mail(rig.bounce(0), REPORT + long_line) == "250 2.0.0 recorded"
    assert await wire.mail(rig.bounce(1), REPORT + b"\n" * 3_000_000) == "250 2.0.0 recorded"
    # A dot that begins a line is stuffed, also where the line is longer than what is read at once.
    assert await wire.mail(rig.bounce(2), REPORT + b"\n." + b"." * 200_000 + b"\n.\n..\n") == "250 2.0.0 recorded"
    assert len(await rig.reports()) == 3


async def test_a_line_without_an_end_ends_the_connection(ledger: Ledger) -> None:
    rig = await prepared(Rig(ledger, feedback_max_bytes=10_000), 1)
    async with running(rig):
        wire = await rig.connect()
        for line in ("MAIL FROM:<>", f"RCPT TO:<{rig.bounce()}>", "DATA"):
            await wire.say(line)
        with pytest.raises(ConnectionError):  # noqa: PT012 - whichever of them notices
            while True:
                wire.writer.write(b"x" * 100_000)
                await wire.writer.drain()
        assert await rig.reports() == []
        again = await rig.connect()
        assert (await again.mail(rig.bounce(), REPORT)).startswith("250")


@pytest.mark.parametrize("end", [b"\r\n.\n", b"\n.\r\n", b"\r.\r", b"\n.\n"])
async def test_only_the_dot_of_the_standard_ends_a_mail(rig: Rig, end: bytes) -> None:
    """No one smuggles a second mail behind another end (as in CVE-2023-51766)."""
    wire = await rig.connect(smtp=True)
    for line in ("MAIL FROM:<>", f"RCPT TO:<{rig.bounce()}>", "DATA"):
        await wire.say(line)
    smuggled = f"MAIL FROM:<>\r\nRCPT TO:<{rig.bounce(1)}>\r\nDATA\r\n".encode()
    body = REPORT.replace(b"\n", b"\r\n")
    assert (await wire.say(body + end + smuggled + body + b"\r\n.")).startswith("250")
    assert (await wire.say("NOOP")).startswith("250")
    assert len(await rig.reports()) == 1


async def test_connections_are_bounded(ledger: Ledger) -> None:
    rig = await prepared(Rig(ledger, feedback_connections=3, feedback_connections_per_address=2), 1)
    async with running(rig):
        first, second = await rig.connect(), await rig.connect()
        refused = await Wire.open(rig.settings.lmtp_port)
        rig.wires.append(refused)
        assert (await refused.answer()).startswith("421")
        assert await refused.reader.read() == b""
        first.writer.close()
        third = await rig.connect(patient=True)
        assert (await third.mail(rig.bounce(), REPORT)).startswith("250")
        assert (await second.say("NOOP")).startswith("250")


async def test_mails_a_second_are_bounded(ledger: Ledger) -> None:
    rig = await prepared(Rig(ledger, feedback_mails_per_second=0.001), 2)
    async with running(rig):
        wire = await rig.connect()
        assert (await wire.mail(rig.bounce(0), REPORT)).startswith("250")
        assert (await wire.mail(rig.bounce(1), REPORT)).startswith("451 4.3.2")
    assert len(await rig.reports()) == 1


async def test_without_the_database_the_client_comes_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    wire = await rig.connect()

    async def away(*_: object) -> None:
        raise ConnectionRefusedError

    with monkeypatch.context() as patch:
        patch.setattr(reports, "record", away)
        assert (await wire.mail(rig.bounce(), REPORT)).startswith("451 4.3.0")
    with monkeypatch.context() as patch:
        patch.setattr(Addresses, "check", away)
        assert (await wire.mail(rig.bounce(), REPORT)).startswith("451 4.3.0")
    assert await wire.mail(rig.bounce(), REPORT) == "250 2.0.0 recorded"


async def test_a_report_that_cannot_be_recorded_keeps_no_other_out(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    record, bad = reports.record, rig.tokens[1]

    async def picky(connection: AsyncConnection, incoming: Sequence[Incoming]) -> Sequence[Outcome]:
        if any(one.found.tokens[0] == bad for one in incoming):
            raise ValueError("a row that no table takes")
        return await record(connection, incoming)

    monkeypatch.setattr(reports, "record", picky)
    wires = [await rig.connect() for _ in range(3)]
    answers = await asyncio.gather(*(wire.mail(rig.bounce(number), REPORT) for number, wire in enumerate(wires)))
    assert [answer[:3] for answer in answers] == ["250", "451", "250"]

"""One suite against servers of others: smtp-sink, Postfix and aiosmtpd, with and without TLS."""

import asyncio
import email
import re
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from services.sender.smtp.contract import Verdict
from shared.faults.meaning import Consequence
from shared.relays.config import Login, RelayConfig, Tls
from shared.relays.probe import probe
from shared.relays.replies import Stage
from shared.relays.session import EstablishError
from tests.support.smtp.certificates import Certificate, certificate_for_localhost
from tests.support.smtp.configs import engine_config, relay_config
from tests.support.smtp.mail import Letter, delivering
from tests.support.smtp.peers import PASSWORD, USER, aiosmtpd_relay
from tests.support.smtp.postfix import UNKNOWN, Postfix, postfix
from tests.support.smtp.production_loop import on_production_loop
from tests.support.smtp.sink import public_folder, smtp_sink

pytestmark = pytest.mark.more

EMAILS = 120
RECIPIENT = "someone@example.net"

TRICKY_BODIES = (
    b"plain\r\n",
    b"..\r\n",
    b"..leading dot\r\n...two\r\n",
    b"\r\n\r\n\r\n",
    b"QUIT\r\nRSET\r\nMAIL FROM:<x@example.org>\r\n",
    b"250 Ok\r\n354 go\r\n421 bye\r\n",
    b"x" * 998 + b"\r\n",
    b"\r\n..\r\n\r\n..\r\n",
    b"0123456789abcdef" * 60
    + b"\r\n"
    + (b"line of seventy-two characters, again and again and again and again.\r\n" * 3000),
)


@dataclass(frozen=True)
class Peer:
    """A running relay; `read` gives the raw messages it has delivered so far."""

    relay: RelayConfig
    read: Callable[[], list[bytes]]
    pipelining: bool
    tls: bool = False

    async def bodies(self, count: int) -> dict[int, bytes]:
        """Bodies by the number in their header, once there are `count`: a server may deliver after accepting."""
        async with asyncio.timeout(30):
            while len(messages := self.read()) < count:  # noqa: ASYNC110 - folders send no events
                await asyncio.sleep(0.05)
        assert len(messages) == count
        return dict(numbered(message) for message in messages)


def numbered(message: bytes) -> tuple[int, bytes]:
    """Number and body, with the line ends of the wire."""
    head, _, body = message.replace(b"\r\n", b"\n").partition(b"\n\nBEGIN\n")
    return int(email.message_from_bytes(head)["X-Number"]), body.replace(b"\n", b"\r\n")


def letter(number: int, body: bytes) -> Letter:
    """`body` is dot-stuffed, as jobs give it."""
    return Letter(RECIPIENT, b"X-Number: %d\r\n\r\nBEGIN\r\n" % number + body)


def unstuffed(body: bytes) -> bytes:
    """As a server stores it (RFC 5321, 4.5.2)."""
    return re.sub(rb"(?m)^\.", b"", body)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return certificate_for_localhost(tmp_path_factory.mktemp("tls"))


@contextmanager
def sink_peer(*flags: str) -> Iterator[Peer]:
    with public_folder() as folder, smtp_sink(*flags, dump=folder) as port:

        def read() -> list[bytes]:
            # it ends each file with an empty line, as mbox does
            return [file.read_bytes().removesuffix(b"\n") for file in folder.glob("message.*")]

        yield Peer(relay_config(port, "sink"), read, pipelining="-p" not in flags)


@pytest.fixture(scope="module")
def postfix_server(certificate: Certificate) -> Iterator[Postfix]:
    with postfix(certificate.certificate, certificate.key) as server:
        yield server


def postfix_peer(server: Postfix, certificate: Certificate, tls: Tls) -> Peer:
    before = server.delivered().keys()

    def read() -> list[bytes]:
        return [message for name, message in server.delivered().items() if name not in before]

    relay = relay_config(server.port, "postfix", host="localhost", tls=tls, ca_file=certificate.certificate)
    return Peer(relay, read, pipelining=True, tls=tls is not Tls.NONE)


@contextmanager
def aiosmtpd_peer(certificate: Certificate, tls: Tls) -> Iterator[Peer]:
    with aiosmtpd_relay(tls, certificate) as (port, folder):

        def read() -> list[bytes]:
            return [file.read_bytes() for file in folder.glob("message.*")]

        relay = relay_config(port, "aiosmtpd", host="localhost", tls=tls, ca_file=certificate.certificate)
        if tls is not Tls.NONE:
            relay = replace(relay, login=Login(USER, PASSWORD))
        yield Peer(relay, read, pipelining=False, tls=tls is not Tls.NONE)


@pytest.fixture(
    params=[
        "smtp-sink",
        "smtp-sink without PIPELINING",
        "Postfix",
        "Postfix with STARTTLS",
        "aiosmtpd",
        "aiosmtpd with STARTTLS and AUTH",
        "aiosmtpd with TLS and AUTH",
    ]
)
def peer(request: pytest.FixtureRequest, certificate: Certificate) -> Iterator[Peer]:
    name: str = request.param
    with ExitStack() as stack:
        tls = Tls.STARTTLS if "STARTTLS" in name else Tls.IMPLICIT if "TLS" in name else Tls.NONE
        if name.startswith("smtp-sink"):
            yield stack.enter_context(sink_peer(*(["-p"] if "without" in name else [])))
        elif name.startswith("Postfix"):
            yield postfix_peer(request.getfixturevalue("postfix_server"), certificate, tls)
        else:
            yield stack.enter_context(aiosmtpd_peer(certificate, tls))


@on_production_loop
async def test_every_email_arrives_once_and_as_it_was(peer: Peer) -> None:
    sent = {number: TRICKY_BODIES[number % len(TRICKY_BODIES)] for number in range(EMAILS)}
    async with delivering(replace(peer.relay, connections=4), [letter(*item) for item in sent.items()]) as (_, box):
        outcomes = await box.reported(EMAILS, seconds=30)
    assert box.verdicts() == {"accepted": EMAILS}
    assert all((outcome.stage, outcome.code) == (Stage.DOT, 250) for outcome in outcomes)
    assert await peer.bodies(EMAILS) == {number: unstuffed(body) for number, body in sent.items()}


@on_production_loop
async def test_connections_are_renewed_after_their_share(peer: Peer) -> None:
    relay = replace(peer.relay, connections=2, max_emails_per_connection=7)
    async with delivering(relay, [letter(number, b"plain\r\n") for number in range(50)]) as (_, box):
        await box.reported(50, seconds=30)
    assert box.verdicts() == {"accepted": 50}
    assert len(await peer.bodies(50)) == 50


@on_production_loop
async def test_a_later_email_uses_the_open_connection(peer: Peer) -> None:
    async with delivering(peer.relay) as (engine, box):
        for number in range(5):
            box.put([letter(number, b"plain\r\n")])
            await box.reported(number + 1)
        assert [status.connections for status in engine.status()] == [1]
    assert box.verdicts() == {"accepted": 5}


@on_production_loop
async def test_the_relay_shows_what_it_can(peer: Peer) -> None:
    shown = await probe(peer.relay, CONNECT_SECONDS)
    assert (shown.pipelining, shown.tls is not None) == (peer.pipelining, peer.tls)
    assert shown.auth or peer.relay.login is None


@pytest.mark.parametrize("tls", [Tls.STARTTLS, Tls.IMPLICIT])
@on_production_loop
async def test_an_untrusted_certificate_is_refused(certificate: Certificate, tls: Tls) -> None:
    with aiosmtpd_peer(certificate, tls) as peer:
        with pytest.raises(EstablishError, match="certificate verify failed") as raised:
            await probe(replace(peer.relay, ca_file=None), CONNECT_SECONDS)
        assert raised.value.stage is Stage.TLS
        assert (await probe(replace(peer.relay, ca_file=None, verify=False), CONNECT_SECONDS)).tls is not None


@on_production_loop
async def test_all_connections_of_a_relay_share_one_context(
    certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    make = ssl.create_default_context

    def counted(cafile: Path | None = None) -> ssl.SSLContext:
        made.append(make(cafile=cafile))
        return made[-1]

    with aiosmtpd_peer(certificate, Tls.STARTTLS) as peer:
        monkeypatch.setattr(ssl, "create_default_context", counted)
        relay = replace(peer.relay, connections=2, max_emails_per_connection=2)
        async with delivering(relay, [letter(number, b"plain\r\n") for number in range(8)]) as (_, box):
            await box.reported(8, seconds=30)
    assert box.verdicts() == {"accepted": 8}
    assert len(made) == 1


@on_production_loop
async def test_tls_cannot_be_stripped() -> None:
    with sink_peer() as peer, pytest.raises(EstablishError, match="STARTTLS") as raised:
        await probe(replace(peer.relay, tls=Tls.STARTTLS), CONNECT_SECONDS)
    assert raised.value.stage is Stage.TLS


@on_production_loop
async def test_a_wrong_password_blocks_the_relay_and_is_never_shown(
    certificate: Certificate, caplog: pytest.LogCaptureFixture
) -> None:
    with aiosmtpd_peer(certificate, Tls.STARTTLS) as peer:
        relay = replace(peer.relay, login=Login(USER, "wrong horse"))
        async with delivering(relay, [letter(1, b"plain\r\n")]) as (engine, box):
            (outcome,) = await box.reported(1)
            assert (outcome.verdict, outcome.stage, outcome.code) == (Verdict.RELAY_FAULT, Stage.AUTH, 535)
            reason = engine.blocked_reason()
    assert reason is not None
    assert "auth: 535" in reason
    for told in (reason, outcome.reply, repr(relay), caplog.text):
        assert "horse" not in told


@on_production_loop
async def test_a_refused_recipient_leaves_the_others_alone_at_postfix(
    postfix_server: Postfix, certificate: Certificate
) -> None:
    await refuse_every_third(postfix_peer(postfix_server, certificate, Tls.NONE))


@on_production_loop
async def test_a_refused_recipient_leaves_the_others_alone_at_aiosmtpd(certificate: Certificate) -> None:
    with aiosmtpd_peer(certificate, Tls.NONE) as peer:
        await refuse_every_third(peer)


async def refuse_every_third(peer: Peer) -> None:
    mixed = [letter(number, b"plain\r\n") for number in range(30)]
    for gone in mixed[::3]:
        gone.rcpt_to = UNKNOWN
    async with delivering(replace(peer.relay, connections=2), mixed) as (_, box):
        await box.reported(30)
    for taken, outcome in box.outcomes:
        expected: tuple[Verdict, Stage, Consequence | None] = (Verdict.ACCEPTED, Stage.DOT, None)
        if taken.rcpt_to == UNKNOWN:
            expected = (Verdict.PERMANENT, Stage.RCPT, Consequence.SUPPRESS)
        assert (outcome.verdict, outcome.stage, outcome.consequence) == expected
    assert sorted(await peer.bodies(20)) == [number for number in range(30) if number % 3]


@on_production_loop
async def test_the_queue_id_of_postfix_is_reported(postfix_server: Postfix, certificate: Certificate) -> None:
    peer = postfix_peer(postfix_server, certificate, Tls.NONE)
    async with delivering(peer.relay, [letter(1, b"plain\r\n")]) as (_, box):
        (outcome,) = await box.reported(1)
    assert outcome.queue_id
    await peer.bodies(1)
    (message,) = peer.read()
    assert outcome.queue_id.encode() in message


CONNECT_SECONDS = 10.0
ONE_TRY = engine_config(rest_seconds=60)  # whatever is rested stays so for the test


@pytest.mark.parametrize(
    ("flags", "verdict", "stage", "code"),
    [
        (["-r", "MAIL"], Verdict.THROTTLED, Stage.MAIL, 450),
        (["-f", "MAIL"], Verdict.SENDER_REFUSED, Stage.MAIL, 500),
        (["-r", "RCPT"], Verdict.TRANSIENT, Stage.RCPT, 450),
        (["-f", "RCPT"], Verdict.PERMANENT, Stage.RCPT, 500),
        (["-r", "DATA"], Verdict.TRANSIENT, Stage.DATA, 450),
        (["-f", "DATA"], Verdict.PERMANENT, Stage.DATA, 500),
        (["-r", "."], Verdict.TRANSIENT, Stage.DOT, 450),
        (["-f", "."], Verdict.PERMANENT, Stage.DOT, 500),
        (["-q", "."], Verdict.AMBIGUOUS, Stage.DOT, None),
        (["-Q", "."], Verdict.TRANSIENT, Stage.DOT, 421),
        (["-q", "RCPT"], Verdict.TRANSIENT, Stage.RCPT, None),
        (["-Q", "RCPT"], Verdict.TRANSIENT, Stage.RCPT, 421),
        (["-q", "CONNECT"], Verdict.RELAY_FAULT, Stage.BANNER, None),
        (["-Q", "CONNECT"], Verdict.THROTTLED, Stage.BANNER, 421),
        (["-f", "CONNECT"], Verdict.RELAY_FAULT, Stage.BANNER, 500),
        (["-f", "EHLO,HELO"], Verdict.RELAY_FAULT, Stage.EHLO, 500),
    ],
)
@pytest.mark.parametrize("pipelining", [True, False])
@on_production_loop
async def test_every_fault_of_smtp_sink_has_its_outcome(
    flags: list[str], verdict: Verdict, stage: Stage, code: int | None, pipelining: bool
) -> None:
    with smtp_sink(*flags, *([] if pipelining else ["-p"])) as port:
        async with delivering(relay_config(port, "sink"), [letter(1, b"x\r\n")], ONE_TRY) as (_, box):
            (outcome,) = await box.reported(1)
    assert (outcome.verdict, outcome.stage, outcome.code) == (verdict, stage, code)


@on_production_loop
async def test_a_server_that_knows_only_helo_is_used() -> None:
    with smtp_sink("-e") as port:
        async with delivering(relay_config(port, "sink"), [letter(1, b"x\r\n")]) as (_, box):
            (outcome,) = await box.reported(1)
    assert outcome.verdict is Verdict.ACCEPTED

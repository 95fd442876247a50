"""The world outside of the scene: a program that takes webhooks, and mailbox providers that report what they got."""

import asyncio
import smtplib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

from shared.ledger import domains
from shared.ledger.database import Ledger
from shared.ledger.models import DEFAULT_PROJECT
from tests.support.feedback_corpus import ANN, TOKEN, arf, dsn, group
from tests.support.http_receiver import receiver
from tests.support.relay import Received, RecordingRelay

DOMAIN, BOUNCES = "example.test", "bounces.example.test"
REPORT_SECONDS = 1.0
EVERY_BOUNCE, EVERY_DELAY, EVERY_UNSUBSCRIBE, EVERY_COMPLAINT, EVERY_STRANGE = 40, 90, 150, 1500, 700
"""Emails for one report of a kind."""
FAILED = ("5.1.1", "550 5.1.1 User unknown")


class Program:
    """Takes the events of webhooks, unless it `fails`."""

    def __init__(self) -> None:
        self.fails = False
        self.url = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with receiver(lambda _path, _headers, _body: 503 if self.fails else 204) as self.url:
            yield


async def name_bounce_domain(url: str) -> None:
    """Reports come in for the domain of the scene's sender."""
    ledger = Ledger(url, pool_size=1)
    async with ledger.write() as connection:
        domain = await domains.add(connection, DOMAIN, DEFAULT_PROJECT, "operator")
        await domains.set_bounce_domain(connection, domain, BOUNCES)
    await ledger.close()


async def report(relay: RecordingRelay, port: int) -> None:
    """Sends reports about what the relay received, until it is cancelled."""
    done = 0
    while True:
        await asyncio.sleep(REPORT_SECONDS)
        received = relay.received[done:]
        await asyncio.to_thread(
            _send, port, [one for place, email in enumerate(received, done) for one in _about(place, email)]
        )
        done += len(received)


def _about(place: int, email: Received) -> Iterator[tuple[str, bytes]]:
    """The address and the text of each report about one email."""
    token = email.message_id.strip("<>").partition("@")[0]
    bounce = f"bounce+{token}@{BOUNCES}"

    def of_this(octets: bytes) -> bytes:
        return octets.replace(TOKEN.encode(), token.encode()).replace(ANN.encode(), email.rcpt.encode())

    if place % EVERY_BOUNCE == 0:
        yield bounce, of_this(dsn("MAILER-DAEMON@mx.example.net", "Undelivered", "x", group("failed", *FAILED)))
    if place % EVERY_DELAY == 1:
        yield bounce, of_this(dsn("MAILER-DAEMON@mx.example.net", "Delayed", "x", group("delayed", "4.4.1")))
    if place % EVERY_UNSUBSCRIBE == 2:
        yield f"unsubscribe+{token}@{BOUNCES}", f"From: {email.rcpt}\nSubject: unsubscribe\n\n".encode()
    if place % EVERY_COMPLAINT == 3:
        yield f"abuse@{BOUNCES}", of_this(arf("abuse"))
    if place % EVERY_STRANGE == 4:
        yield f"abuse@{BOUNCES}", arf("abuse", f"From: a@b\n\n{place}")
        yield f"bounce+{token[::-1]}@{BOUNCES}", b"From: a@b\n\nx"


def _send(port: int, reports: list[tuple[str, bytes]]) -> None:
    with smtplib.LMTP("127.0.0.1", port) as client:
        for recipient, octets in reports:
            with suppress(smtplib.SMTPRecipientsRefused):
                client.sendmail("", [recipient], octets)

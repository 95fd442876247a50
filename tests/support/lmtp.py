"""A client of the doors of feedback, and reports that it brings."""

import asyncio
from contextlib import suppress
from uuid import UUID

from sqlalchemy import insert, select, update
from sqlmodel import col

from shared.email_tokens import TokenMaker
from shared.ledger import domains
from shared.ledger.database import Ledger
from shared.ledger.models import DEFAULT_PROJECT, Batch, Recipient
from tests.support.feedback_corpus import TOKEN, dsn, group
from tests.support.ledger import add_campaign

BOUNCES = "bounces.example.com"
BATCH_SIZE = 500
LONGEST_LINE = 1_000_000


class Wire:
    """One connection to a door."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> "Wire":
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=LONGEST_LINE))

    async def answer(self) -> str:
        """The last line of an answer. Raises ConnectionError if the connection ends first."""
        while True:
            line = (await self.reader.readline()).decode()
            if not line.endswith("\n"):
                raise ConnectionResetError("the connection ended before the answer")
            if line[3:4] != "-":
                return line.strip()

    async def say(self, line: str | bytes) -> str:
        self.writer.write((line.encode() if isinstance(line, str) else line) + b"\r\n")
        return await self.answer()

    async def mail(self, rcpt: str, octets: bytes, sender: str = "") -> str:
        """The answer to a mail, or to its recipient if that is refused."""
        answer = await self.say(f"MAIL FROM:<{sender}>")
        if answer.startswith("250"):
            answer = await self.say(f"RCPT TO:<{rcpt}>")
        if not answer.startswith("250"):
            await self.say("RSET")
            return answer
        assert (await self.say("DATA")).startswith("354")
        stuffed = octets.replace(b"\r\n", b"\n").replace(b"\n.", b"\n..").replace(b"\n", b"\r\n")
        return await self.say(stuffed + b"\r\n.")

    async def close(self) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


async def greeted(port: int, *, seconds: float = 60.0) -> Wire:
    """A connection to an LMTP door that has just been opened, or is about to be."""
    async with asyncio.timeout(seconds):
        while True:
            with suppress(ConnectionError):
                wire = await Wire.open(port)
                try:
                    if (await wire.answer()).startswith("220") and (await wire.say("LHLO here")).startswith("250"):
                        return wire
                except ConnectionError:
                    await wire.close()
                    raise
                await wire.close()
            await asyncio.sleep(0.05)


def a_bounce(token: str, status: str = "5.1.1", reply: str = "550 5.1.1 User unknown") -> bytes:
    """A bounce of one of our emails, by default of a mailbox that does not exist."""
    return dsn("MAILER-DAEMON@mx", "Undelivered", "x", group("failed", status, reply, final="")).replace(
        TOKEN.encode(), token.encode()
    )


async def sent_campaign(ledger: Ledger, recipients: int, secret: bytes) -> list[str]:
    """Adds a campaign that was sent, and the bounce domain of its project; returns the tokens of its emails."""
    campaign: UUID = await add_campaign(ledger, recipients)
    own = col(Recipient.campaign_id) == campaign
    async with ledger.write() as connection:
        ids = (
            (await connection.execute(select(col(Recipient.id)).where(own).order_by(col(Recipient.id)))).scalars().all()
        )
        await connection.execute(update(Recipient).where(own).values(status="sent"))
        for start in range(0, len(ids), BATCH_SIZE):
            part = ids[start : start + BATCH_SIZE]
            batch = {"first_id": part[0], "last_id": part[-1], "size": len(part), "sent": len(part), "state": "done"}
            await connection.execute(insert(Batch).values(campaign_id=campaign, due_at=0.0, **batch))
    await with_bounce_domain(ledger, "example.com", BOUNCES)
    return [TokenMaker(secret, campaign).make(number).mail for number in ids]


async def with_bounce_domain(ledger: Ledger, name: str, bounce_domain: str) -> None:
    """Adds a domain to the project of all tests."""
    async with ledger.write() as connection:
        domain = await domains.add(connection, name, DEFAULT_PROJECT, "operator")
        await domains.set_bounce_domain(connection, domain, bounce_domain)

"""A person is erased while senders hold the person's emails, and a process of the API dies on the way."""

import time

import pytest
from sqlalchemy import func, select
from sqlmodel import SQLModel, col

from shared.ledger.database import Ledger
from shared.ledger.models import Batch
from tests.support.relay import RecordingRelay
from tests.support.system import System
from tests.support.waiting import until

pytestmark = [pytest.mark.more, pytest.mark.timeout(400)]

PEOPLE = [f"person-{number}@example.test" for number in range(300)]


async def test_no_email_starts_later_than_a_second_after_the_answer(
    system: System, ledger: Ledger, relay: RecordingRelay
) -> None:
    """For people at the end of the list, and some in flight. Then nothing names them, and the counts add up."""
    system.settings |= {"batch_size": "50"}
    await system.start(senders=2)
    relay.behaviour.seconds_per_email = 0.3
    campaign = await system.create(PEOPLE)
    await system.send(campaign)
    await until(lambda: len(relay.received) > 20)

    erased = [PEOPLE[-1], *(one.rcpt for one in relay.received[-3:]), *PEOPLE[150:300:50]]
    answered = {}
    for email in erased:
        assert (await system.post("/erase", {"email": email}))["state"] == "running"
        answered[email] = time.monotonic()
    system.processes["api"].kill()
    await system.launch("api").wait_ready()
    for email in erased:
        await system.erase(email, 120)

    answer = await system.wait_closed(campaign, 200)
    assert [who for at, who in relay.first_bytes if who in answered and at > answered[who] + 1.0] == []
    counts = answer["counts"]
    assert counts["sent"] == len(relay.received)
    assert counts["sent"] + counts["suppressed"] + counts["cancelled"] == len(PEOPLE)
    assert relay.duplicates == 0
    assert await _naming(ledger, erased) == []
    async with ledger.read() as connection:
        assert await connection.scalar(select(func.sum(col(Batch.pending) + col(Batch.deferred)))) == 0


async def _naming(ledger: Ledger, emails: list[str]) -> list[str]:
    """The rows of any table that name one of these people."""
    async with ledger.read() as connection:
        return [
            f"{table.name}: {tuple(row)}"
            for table in SQLModel.metadata.sorted_tables
            for row in await connection.execute(select(table))
            if any(f"'{email}'" in str(tuple(row)) or f"<{email}>" in str(tuple(row)) for email in emails)
        ]

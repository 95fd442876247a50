"""Refusals in the same words, counted in the ledger: senders add up, and one pause follows."""

from collections.abc import Sequence
from uuid import UUID

import pytest
from sqlalchemy import update
from sqlmodel import col

from shared.faults.spread import FORGOTTEN_AFTER, Refused
from shared.ledger import spread
from shared.ledger.database import Ledger
from shared.ledger.models import Batch, Campaign
from shared.ledger.spread import Noted
from tests.support.ledger import campaign_row, timeline_of
from tests.support.seeds import seed_campaign

REPLY = "mx: 554 5.7.1 Message rejected as spam"


@pytest.fixture
async def campaign(ledger: Ledger) -> UUID:
    return (await seed_campaign(ledger, 1000)).id


async def note(ledger: Ledger, campaign: UUID, ids: Sequence[int], domains: int = 10) -> bool:
    noted = Noted([Refused(one, f"d{one % domains}.test", "554-x") for one in ids], {"554-x": REPLY})
    async with ledger.write() as connection:
        return await spread.note(connection, campaign, noted)


async def sent(ledger: Ledger, campaign: UUID, emails: int) -> None:
    """So many recipients of each batch have been sent to; each has 100."""
    async with ledger.write() as connection:
        mine = col(Batch.campaign_id) == campaign
        await connection.execute(update(Batch).where(mine).values(sent=emails, pending=100 - emails))


async def pause(ledger: Ledger, campaign: UUID) -> bool:
    async with ledger.write() as connection:
        return await spread.pause(connection, campaign)


async def suspects(ledger: Ledger) -> Sequence[UUID]:
    return await spread.suspects(ledger)


async def test_senders_add_up_and_the_campaign_pauses_once(ledger: Ledger, campaign: UUID) -> None:
    assert not await note(ledger, campaign, [1, 2])
    assert not await note(ledger, campaign, [3, 4])
    assert await suspects(ledger) == []
    assert not await pause(ledger, campaign)
    assert await note(ledger, campaign, [5])
    assert await note(ledger, campaign, [6]), "it stays so"
    assert await suspects(ledger) == [campaign]
    assert await pause(ledger, campaign)
    assert not await pause(ledger, campaign)
    row = await campaign_row(ledger, campaign)
    assert (row.status, row.breaker) == ("paused", None)
    assert REPLY in row.reason
    assert [kind for kind, text in await timeline_of(ledger, campaign) if REPLY in text] == ["paused"]


async def test_repeating_a_write_adds_nothing(ledger: Ledger, campaign: UUID) -> None:
    for _ in range(5):
        assert not await note(ledger, campaign, [1, 2, 3, 4])


async def test_two_domains_are_not_enough(ledger: Ledger, campaign: UUID) -> None:
    assert not await note(ledger, campaign, range(50), domains=2)


async def test_what_lies_many_accepted_emails_back_is_forgotten(ledger: Ledger, campaign: UUID) -> None:
    """The campaign has ten batches."""
    assert not await note(ledger, campaign, [1, 2, 3, 4])
    await sent(ledger, campaign, FORGOTTEN_AFTER // 10)
    assert not await note(ledger, campaign, [5, 6, 7, 8])
    await sent(ledger, campaign, FORGOTTEN_AFTER // 10 + 9)
    assert await note(ledger, campaign, [9]), "less than that many later"


async def test_a_person_who_resumes_it_starts_the_count_again(ledger: Ledger, campaign: UUID) -> None:
    assert await note(ledger, campaign, range(5))
    async with ledger.write() as connection:
        await spread.forget(connection, campaign)
    assert await suspects(ledger) == []
    assert not await note(ledger, campaign, range(10, 14))
    assert await note(ledger, campaign, [14])


async def test_what_was_in_flight_when_it_paused_does_not_count(ledger: Ledger, campaign: UUID) -> None:
    async with ledger.write() as connection:
        await connection.execute(update(Campaign).where(col(Campaign.id) == campaign).values(status="paused"))
    assert not await note(ledger, campaign, range(50))


async def test_a_campaign_without_open_recipients_closes_instead(ledger: Ledger, campaign: UUID) -> None:
    assert await note(ledger, campaign, range(5))
    async with ledger.write() as connection:
        await connection.execute(update(Batch).values(failed=100, pending=0))
        await connection.execute(update(Campaign).values(cursor=2**40))
    assert await suspects(ledger) == []
    assert not await pause(ledger, campaign)

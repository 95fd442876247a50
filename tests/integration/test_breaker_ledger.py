"""The relay breaker in the ledger: senders add up, repeats are harmless, suppressions are in doubt until a decision."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import String, cast, func, insert, select, update
from sqlmodel import col

from shared.faults.breakers import Breaker
from shared.ledger import breakers
from shared.ledger.breakers import Noted
from shared.ledger.database import Ledger, db_now
from shared.ledger.models import DEFAULT_PROJECT, Batch, Campaign, Recipient, RelayRefusals, Suppression
from tests.support.seeds import seed_campaign

RELAY = "mx.test:25"
REPLY = "550 5.1.1 User unknown"


def refusals(ids: Sequence[int], domains: int = 10) -> Noted:
    return Noted(RELAY, [(one, f"d{one % domains}.test", "550-x", 0.0) for one in ids], REPLY)


async def note(ledger: Ledger, campaign: UUID, noted: Noted) -> bool:
    async with ledger.write() as connection:
        return await breakers.note(connection, DEFAULT_PROJECT, campaign, noted)


async def suppress(ledger: Ledger, campaign: UUID, name: str, age_seconds: float = 0.0) -> None:
    new: dict[str, Any] = {"email": f"{name}@x.test", "email_key": f"{name}@x.test", "reason": "bounced"}
    async with ledger.write() as connection:
        new |= {"project_id": DEFAULT_PROJECT, "campaign_id": campaign, "created_at": db_now() - age_seconds}
        await connection.execute(insert(Suppression).values(**new))


async def suppressed(ledger: Ledger) -> dict[str, bool]:
    """By name: whether it is in doubt."""
    async with ledger.read() as connection:
        rows = await connection.execute(select(col(Suppression.email), col(Suppression.provisional)))
        return {email.partition("@")[0]: bool(provisional) for email, provisional in rows}


async def test_two_senders_trip_it_together(ledger: Ledger) -> None:
    campaign = (await seed_campaign(ledger, 100)).id
    assert not await note(ledger, campaign, refusals(range(25)))
    assert await note(ledger, campaign, refusals(range(25, 50)))


async def test_repeating_a_group_adds_nothing(ledger: Ledger) -> None:
    campaign = (await seed_campaign(ledger, 100)).id
    for _ in range(5):
        assert not await note(ledger, campaign, refusals(range(49)))
    assert await note(ledger, campaign, refusals([49]))
    assert await note(ledger, campaign, refusals([49])), "it stays tripped"


async def test_a_list_of_one_domain_needs_fifty_recipients(ledger: Ledger) -> None:
    """The seeded recipients are all of one domain."""
    campaign = (await seed_campaign(ledger, 100)).id
    assert await note(ledger, campaign, refusals(range(50), domains=1))


async def test_a_dead_domain_of_a_longer_list_does_not_trip_it(ledger: Ledger) -> None:
    campaign = (await seed_campaign(ledger, 100)).id
    key = col(Recipient.email_key)
    async with ledger.write() as connection:
        mine = col(Recipient.campaign_id) == campaign
        await connection.execute(update(Recipient).where(mine).values(email_key=key + cast(col(Recipient.id), String)))
    assert not await note(ledger, campaign, refusals(range(500), domains=1))
    assert not await note(ledger, campaign, refusals(range(1000, 1050), domains=4))
    assert await note(ledger, campaign, refusals(range(2000, 2050), domains=5))


async def test_once_something_was_sent_ten_domains_are_needed(ledger: Ledger) -> None:
    campaign = (await seed_campaign(ledger, 100)).id
    key = col(Recipient.email_key)
    async with ledger.write() as connection:
        mine = col(Recipient.campaign_id) == campaign
        await connection.execute(update(Recipient).where(mine).values(email_key=key + cast(col(Recipient.id), String)))
        await connection.execute(update(Batch).values(sent=1, pending=col(Batch.pending) - 1))
    assert not await note(ledger, campaign, refusals(range(1000, 1050), domains=9))
    assert await note(ledger, campaign, refusals(range(2000, 2050), domains=10))


async def test_a_trip_doubts_the_suppressions_that_followed_and_no_others(ledger: Ledger) -> None:
    campaign, other = (await seed_campaign(ledger, 100)).id, (await seed_campaign(ledger, 1)).id
    await suppress(ledger, campaign, "earlier", age_seconds=3600)
    await suppress(ledger, other, "elsewhere")
    await suppress(ledger, campaign, "first")
    assert await note(ledger, campaign, refusals(range(50)))
    await suppress(ledger, campaign, "in-flight")
    await note(ledger, campaign, refusals([50]))
    doubted = {"earlier": False, "elsewhere": False, "first": True, "in-flight": True}
    assert await suppressed(ledger) == doubted

    async with ledger.write() as connection:
        reason = await breakers.relay_trouble(connection, campaign)
        assert reason is not None
        assert REPLY in reason
        assert await breakers.pause(connection, campaign, Breaker.RELAY, reason)
        assert not await breakers.pause(connection, campaign, Breaker.RELAY, reason), "once"
        await breakers.decide(connection, DEFAULT_PROJECT, campaign, Breaker.RELAY, retry=True)
    assert await suppressed(ledger) == {"earlier": False, "elsewhere": False}
    async with ledger.read() as connection:
        assert await connection.scalar(select(func.count()).select_from(RelayRefusals)) == 0
        assert await breakers.relay_trouble(connection, campaign) is None


async def test_what_is_kept_counts_again(ledger: Ledger) -> None:
    campaign = (await seed_campaign(ledger, 100)).id
    await suppress(ledger, campaign, "first")
    await note(ledger, campaign, refusals(range(50)))
    async with ledger.write() as connection:
        await breakers.decide(connection, DEFAULT_PROJECT, campaign, Breaker.RELAY, retry=False)
    assert await suppressed(ledger) == {"first": False}


async def test_a_campaign_that_a_person_paused_meanwhile_asks_all_the_same(ledger: Ledger) -> None:
    campaign = (await seed_campaign(ledger, 100)).id
    async with ledger.write() as connection:
        await connection.execute(update(Campaign).where(col(Campaign.id) == campaign).values(status="paused"))
        assert not await breakers.pause(connection, campaign, Breaker.RELAY, "why")
        row = (await connection.execute(select(col(Campaign.breaker), col(Campaign.reason)))).one()
    assert tuple(row) == ("relay", "why")


async def test_the_list_breaker_judges_a_thousand_results_and_is_lifted_for_good(ledger: Ledger) -> None:
    campaign = (await seed_campaign(ledger, 2000, batch_size=1000)).id

    async def trouble() -> str | None:
        async with ledger.read() as connection:
            return await breakers.list_trouble(connection, campaign, 0.2)

    async def recorded(gone: int, results: int) -> str | None:
        counts = {"gone": gone // 2, "failed": gone // 2, "sent": (results - gone) // 2}
        async with ledger.write() as connection:
            await connection.execute(update(Batch).values(**counts))
        return await trouble()

    assert await trouble() is None
    assert await breakers.suspects(ledger, 0.2) == []
    assert await recorded(500, 998) is None
    assert await recorded(200, 1000) is None
    assert await breakers.suspects(ledger, 0.2) == []
    assert await recorded(202, 1000) is not None
    assert await breakers.suspects(ledger, 0.2) == await breakers.suspects(ledger, 0.2, [campaign]) == [campaign]
    assert await breakers.suspects(ledger, 0.2, [UUID(int=1)]) == []
    async with ledger.write() as connection:
        await breakers.decide(connection, DEFAULT_PROJECT, campaign, Breaker.LIST, retry=False)
        assert await breakers.list_trouble(connection, campaign, 0.2) is None

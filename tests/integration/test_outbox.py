"""The outbox: every move to a closed state is told, in the transaction that makes it, and read without gaps."""

import asyncio
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import insert, select, update
from sqlmodel import col

from services.sender.db import claims
from services.sender.db.record import Group, record
from services.sender.results import Result
from shared.ledger import campaigns, outbox, recipients
from shared.ledger.database import Ledger
from shared.ledger.facts import OF_CAMPAIGN, OF_RECIPIENT, Fact, FactType
from shared.ledger.models import DEFAULT_PROJECT, Campaign, Recipient
from shared.ledger.outbox_tables import EventStream, Outbox
from shared.ledger.states import (
    CAMPAIGN_TRANSITIONS,
    CLOSED,
    OPEN,
    RECIPIENT_TRANSITIONS,
    CampaignStatus,
    RecipientStatus,
    before,
)
from tests.support.ledger import add_campaign, statements_of
from tests.support.seeds import seed_campaign

SOME = Fact(FactType.WEBHOOK_TEST)


async def subscribe(ledger: Ledger, *, wanted: bool = True) -> None:
    async with ledger.write() as connection:
        await connection.execute(insert(EventStream).values(project_id=DEFAULT_PROJECT, wanted=wanted))


async def told(ledger: Ledger) -> list[dict[str, Any]]:
    async with ledger.read() as connection:
        found = await connection.execute(select(col(Outbox.facts), col(Outbox.size)).order_by(col(Outbox.id)))
        rows = [(list(outbox.unpack(row.facts, row.size)), row.size) for row in found]
    assert all(len(facts) == size for facts, size in rows)
    return [fact for facts, _ in rows for fact in facts]


async def types(ledger: Ledger) -> list[str]:
    return [fact["type"] for fact in await told(ledger)]


async def placed(ledger: Ledger) -> list[tuple[int, int | None]]:
    """Ids and positions of the rows."""
    async with ledger.read() as connection:
        found = await connection.execute(select(col(Outbox.id), col(Outbox.position)).order_by(col(Outbox.id)))
        return [(row.id, row.position) for row in found]


async def recipient_ids(ledger: Ledger, campaign_id: UUID) -> list[int]:
    async with ledger.read() as connection:
        found = await connection.execute(
            select(col(Recipient.id)).where(col(Recipient.campaign_id) == campaign_id).order_by(col(Recipient.id))
        )
        return list(found.scalars())


async def set_status(ledger: Ledger, recipient_id: int, status: str) -> None:
    async with ledger.write() as connection:
        await connection.execute(
            update(Recipient).where(col(Recipient.id) == recipient_id).values(status=status, attempts=0)
        )


def test_every_closed_status_and_every_move_of_a_campaign_has_a_type() -> None:
    assert set(OF_RECIPIENT) == set(CLOSED)
    assert set(OF_CAMPAIGN) == set(CampaignStatus)
    assert len(set(OF_CAMPAIGN.values())) == len(CampaignStatus)


@pytest.mark.parametrize("to", [to for to in CampaignStatus if before(to)])
async def test_every_move_of_a_campaign_is_told(ledger: Ledger, to: CampaignStatus) -> None:
    await subscribe(ledger)
    campaign_id = await add_campaign(ledger, 3)
    sources = [source for source, targets in CAMPAIGN_TRANSITIONS.items() if to in targets]
    for source in sources:
        async with ledger.write() as connection:
            await connection.execute(
                update(Campaign).where(col(Campaign.id) == campaign_id).values(status=source.value)
            )
            assert await campaigns.move(connection, campaign_id, to, reason="because")
            assert not await campaigns.move(connection, campaign_id, to, from_=(source,))
    facts = await told(ledger)
    assert [fact["type"] for fact in facts] == [OF_CAMPAIGN[to]] * len(sources)
    for fact in facts:
        assert (fact["campaign_id"], fact["reason"]) == (str(campaign_id), "because")
        assert "recipient_id" not in fact
        assert (fact.get("counts", {}).get("total") == 3) is (not CAMPAIGN_TRANSITIONS[to] or "counts" in fact)


async def test_a_campaign_that_starts_as_queued_is_told(ledger: Ledger) -> None:
    await subscribe(ledger)
    values: dict[str, Any] = {
        "project_id": DEFAULT_PROJECT,
        "name": "T",
        "from_email": "a@b.test",
        "envelope_from": "a@b.test",
    }
    values["delivery"] = "at_least_once"
    async with ledger.write() as connection:
        await campaigns.create(connection, **values, content="{}")
        await campaigns.create(connection, CampaignStatus.QUEUED, **values, content="{}")
    assert await types(ledger) == ["campaign.queued"]


@pytest.mark.parametrize("to", list(RecipientStatus))
async def test_every_result_that_closes_a_recipient_is_told(ledger: Ledger, to: RecipientStatus) -> None:
    """One after the other, from each status that allows it, through what a sender calls."""
    await subscribe(ledger)
    seeded = await seed_campaign(ledger, 1)
    claim = await claims.claim(ledger, seeded.batch_ids[0], 1, "me", 15.0)
    assert claim is not None
    assert claim.wants_events
    (recipient_id,) = seeded.recipient_ids
    expected = []
    for source in RecipientStatus:
        if to not in RECIPIENT_TRANSITIONS[source]:
            continue
        await set_status(ledger, recipient_id, source.value)
        result = Result(recipient_id, "r@example.com", source.value, 0, to.value, 1, code=250, relay="r", queue_id="q")
        group = Group(claim.batch_id, claim.generation, claim.campaign_id, DEFAULT_PROJECT, [result], wants_events=True)
        await record(ledger, [group], 15.0)
        await record(ledger, [group], 15.0)  # repeated, because its answer was lost
        expected += [OF_RECIPIENT[to]] if to in OF_RECIPIENT else []
    facts = await told(ledger)
    assert [fact["type"] for fact in facts] == expected
    assert all(fact["recipient_id"] == recipient_id and fact["relay"] == "r" for fact in facts)


async def test_a_group_commit_of_several_batches_writes_one_row_for_their_project(ledger: Ledger) -> None:
    await subscribe(ledger)
    groups: list[Group] = []
    expected: list[dict[str, Any]] = []
    for statuses in (("sent", "deferred", "failed"), ("deferred",), ("sent",)):
        seeded = await seed_campaign(ledger, len(statuses))
        claim = await claims.claim(ledger, seeded.batch_ids[0], 1, "me", 15.0)
        assert claim is not None
        results = [
            Result(one, "r@example.com", "pending", 0, status, 1, 60.0 if status == "deferred" else None, queue_id="q")
            for one, status in zip(seeded.recipient_ids, statuses, strict=True)
        ]
        batch = (claim.batch_id, claim.generation, claim.campaign_id, DEFAULT_PROJECT)
        groups.append(Group(*batch, results, wants_events=True))
        expected += [
            {
                "type": f"recipient.{result.status}",
                "campaign_id": str(seeded.id),
                "recipient_id": result.recipient_id,
                "attempts": 1,
                "queue_id": "q",
            }
            for result in results
            if result.status != "deferred"
        ]
    await record(ledger, groups, 15.0)
    assert await told(ledger) == expected
    assert len(await placed(ledger)) == 1


@pytest.mark.parametrize("to", [RecipientStatus.CANCELLED, RecipientStatus.EXPIRED])
async def test_closing_open_recipients_is_told(ledger: Ledger, to: RecipientStatus) -> None:
    await subscribe(ledger)
    campaign_id = await add_campaign(ledger, 4)
    ids = await recipient_ids(ledger, campaign_id)
    await set_status(ledger, ids[0], "sent")
    async with ledger.write() as connection:
        await connection.execute(update(Recipient).where(col(Recipient.id) == ids[1]).values(intent_at=1.0))
        assert await recipients.close_open(connection, campaign_id, ids[0], ids[-1], to) == 3
    assert [(fact["recipient_id"], fact["type"]) for fact in await told(ledger)] == [
        (ids[1], "recipient.unknown"),
        (ids[2], OF_RECIPIENT[to]),
        (ids[3], OF_RECIPIENT[to]),
    ]


async def test_a_person_who_resolves_unknown_as_sent_is_told_and_a_retry_is_not(ledger: Ledger) -> None:
    await subscribe(ledger)
    campaign_id = await add_campaign(ledger, 2)
    first, second = await recipient_ids(ledger, campaign_id)
    await set_status(ledger, first, "unknown")
    await set_status(ledger, second, "failed")
    async with ledger.write() as connection:
        for source, target in (("unknown", "sent"), ("failed", "pending")):
            await recipients.reopen(
                connection, campaign_id, first, second, RecipientStatus(source), RecipientStatus(target)
            )
    assert await types(ledger) == ["recipient.sent"]


@pytest.mark.parametrize("stream", [None, False])
async def test_a_project_that_wants_nothing_gets_no_rows(ledger: Ledger, stream: bool | None) -> None:
    if stream is not None:
        await subscribe(ledger, wanted=stream)
    campaign_id = await add_campaign(ledger, 3)
    ids = await recipient_ids(ledger, campaign_id)
    async with ledger.write() as connection:
        assert await campaigns.move(connection, campaign_id, CampaignStatus.PAUSED)
        assert await recipients.close_open(connection, campaign_id, ids[0], ids[-1], RecipientStatus.CANCELLED) == 3
        await outbox.tell(connection, DEFAULT_PROJECT, [SOME])
    assert await told(ledger) == []


async def test_without_a_subscriber_a_group_commit_executes_not_one_statement_more(ledger: Ledger) -> None:
    """With one, SQLite executes one more, and PostgreSQL the same one with a further part."""

    async def commit() -> list[str]:
        seeded = await seed_campaign(ledger, 2)
        claim = await claims.claim(ledger, seeded.batch_ids[0], 1, "me", 15.0)
        assert claim is not None
        results = [Result(one, "a@b.test", "pending", 0, "sent", 1, code=250) for one in seeded.recipient_ids]
        group = Group(
            *(claim.batch_id, claim.generation, claim.campaign_id, DEFAULT_PROJECT, results),
            wants_events=claim.wants_events,
        )
        with statements_of(ledger) as executed:
            assert len((await record(ledger, [group], 15.0))[claim.batch_id].results) == 2
        return [statement for statement, _ in executed]

    without = await commit()
    assert not [statement for statement in without if "outbox" in statement or "event_stream" in statement]
    await subscribe(ledger)
    subscribed = await commit()
    assert len(subscribed) == len(without) + ledger.is_sqlite
    assert sum("INSERT INTO outbox" in statement for statement in subscribed) == 1


async def test_what_is_rolled_back_is_not_told(ledger: Ledger) -> None:
    await subscribe(ledger)

    async def fail() -> None:
        async with ledger.write() as connection:
            await outbox.tell(connection, DEFAULT_PROJECT, [SOME])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    assert await told(ledger) == []


async def test_many_facts_take_rows_of_bounded_size(ledger: Ledger) -> None:
    await subscribe(ledger)
    async with ledger.write() as connection:
        await outbox.tell(connection, DEFAULT_PROJECT, [SOME] * (2 * outbox.MOST_FACTS + 1))
    async with ledger.read() as connection:
        sizes = (await connection.execute(select(col(Outbox.size)).order_by(col(Outbox.id)))).scalars().all()
    assert sizes == [outbox.MOST_FACTS, outbox.MOST_FACTS, 1]
    assert await outbox.place(ledger) == 2 * outbox.MOST_FACTS + 1
    assert [position for _, position in await placed(ledger)] == [1, outbox.MOST_FACTS + 1, 2 * outbox.MOST_FACTS + 1]


async def test_a_row_that_commits_late_gets_a_later_position(postgresql_url: str) -> None:
    """Its id is smaller, but a reader may have read past it."""
    ledger = Ledger(postgresql_url)
    try:
        await subscribe(ledger)
        async with ledger.write() as late:
            await outbox.tell(late, DEFAULT_PROJECT, [SOME, SOME])
            async with ledger.write() as connection:
                await outbox.tell(connection, DEFAULT_PROJECT, [SOME])
            assert await outbox.place(ledger) == 1
            assert [position for _, position in await placed(ledger)] == [1]
        assert await outbox.place(ledger) == 2
        assert [position for _, position in await placed(ledger)] == [2, 1]
        assert await outbox.place(ledger) == 0
    finally:
        await ledger.close()


async def test_several_processes_place_rows_without_gaps_or_repeats(ledger: Ledger) -> None:
    await subscribe(ledger)

    async def write() -> None:
        for _ in range(20):
            async with ledger.write() as connection:
                await outbox.tell(connection, DEFAULT_PROJECT, [SOME] * 3)

    async def place() -> int:
        return sum([await outbox.place(ledger) for _ in range(15)])

    counted = await asyncio.gather(write(), write(), place(), place(), place())
    rest = await outbox.place(ledger)
    assert sum(counted[2:]) + rest == 120
    positions = sorted(position or 0 for _, position in await placed(ledger))
    assert positions == list(range(1, 121, 3))


async def test_old_rows_are_deleted_in_steps_and_only_once_placed(ledger: Ledger) -> None:
    await subscribe(ledger)
    for _ in range(5):
        async with ledger.write() as connection:
            await outbox.tell(connection, DEFAULT_PROJECT, [SOME, SOME])
    assert await outbox.forget(ledger, -1.0, 100) == 0, "none has a position"
    await outbox.place(ledger)
    assert await outbox.forget(ledger, 3600.0, 100) == 0, "none is old"
    assert await outbox.forget(ledger, -1.0, 3) == 3
    async with ledger.read() as connection:
        assert await connection.scalar(select(col(EventStream.forgotten_position))) == 6
    assert await outbox.forget(ledger, -1.0, 3) == 2
    assert await placed(ledger) == []
    async with ledger.write() as connection:
        await outbox.tell(connection, DEFAULT_PROJECT, [SOME])
    await outbox.place(ledger)
    assert [position for _, position in await placed(ledger)] == [11], "positions are never given twice"


def test_an_open_recipient_is_no_fact() -> None:
    results = [Result(1, "r@example.com", "pending", 0, status.value, 1) for status in OPEN]
    assert outbox.pack_columns(DEFAULT_PROJECT, outbox.columns_of_results(UUID(int=1), results)) == []

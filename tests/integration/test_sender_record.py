"""Recording results: fenced by the generation, counted by rows really changed, facts win."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from sqlalchemy import select, text, update
from sqlmodel import col

from services.sender.db import claims
from services.sender.db.record import Group, Recorded, record
from services.sender.db.worklist import read_worklist
from services.sender.results import Result
from shared.ledger.counts import STATUSES, counts
from shared.ledger.database import Ledger, clock
from shared.ledger.models import DEFAULT_PROJECT, Batch, Campaign, Recipient, Suppression
from tests.support.seeds import Seeded, seed_campaign
from tests.support.waiting import until

LEASE = 15.0


@pytest.fixture
async def ledger(database_url: str) -> AsyncIterator[Ledger]:
    ledger = Ledger(database_url)
    yield ledger
    await ledger.close()


async def claimed(ledger: Ledger, seeded: Seeded) -> claims.Claim:
    async with ledger.read() as connection:
        generation = (
            await connection.execute(select(col(Batch.generation)).where(col(Batch.id) == seeded.batch_ids[0]))
        ).scalar_one()
    claim = await claims.claim(ledger, seeded.batch_ids[0], generation, "me", LEASE)
    assert claim is not None
    return claim


def result(recipient_id: int, status: str = "sent", **changes: object) -> Result:
    base = Result(
        recipient_id, f"person@{recipient_id}.test", "pending", 0, status, 1, code=250, relay="r", queue_id="q"
    )
    return base._replace(**changes)  # type: ignore[arg-type]


def group(
    claim: claims.Claim, *results: Result, intents: tuple[int, ...] = (), withdrawals: tuple[int, ...] = ()
) -> Group:
    return Group(claim.batch_id, claim.generation, claim.campaign_id, DEFAULT_PROJECT, results, intents, withdrawals)


def statuses(recorded: Recorded) -> list[str]:
    """What is counted in metrics."""
    return sorted(result.status for result in recorded.results)


async def row(ledger: Ledger, recipient_id: int) -> Recipient:
    async with ledger.read() as connection:
        found = await connection.execute(select(Recipient).where(col(Recipient.id) == recipient_id))
        return Recipient.model_validate(dict(found.mappings().one()))


async def assert_counts_add_up(ledger: Ledger, seeded: Seeded) -> dict[str, int]:
    """Invariant 1: the counts by status add up to the total, and are what the rows say."""
    async with ledger.read() as connection:
        found = dict(await counts(connection, seeded.id))
        rows = (
            await connection.execute(select(col(Recipient.status)).where(col(Recipient.campaign_id) == seeded.id))
        ).scalars()
        by_row = list(rows)
    assert sum(found[status] for status in STATUSES) == found["total"] == len(seeded.recipient_ids)
    for status in STATUSES:
        assert found[status] == by_row.count(status), status
    return found


async def test_a_group_is_recorded_counted_and_renews_the_lease(ledger: Ledger) -> None:
    seeded = await seed_campaign(ledger, 5)
    claim = await claimed(ledger, seeded)
    first, second, third, *_ = seeded.recipient_ids
    results = [
        result(first),
        result(second, "failed", code=550, enhanced="5.1.1", reply="no such user", queue_id=None, suppress=True),
        result(third, "deferred", code=451, delay_seconds=60.0, queue_id=None),
    ]
    recorded = await record(ledger, [group(claim, *results)], LEASE)
    assert recorded[claim.batch_id].lost is False
    assert statuses(recorded[claim.batch_id]) == ["deferred", "failed", "sent"]
    found = await assert_counts_add_up(ledger, seeded)
    assert (found["sent"], found["failed"], found["deferred"], found["pending"]) == (1, 1, 1, 2)
    async with ledger.read() as connection:
        now = await clock(connection)
        lease = (await connection.execute(select(col(Batch.lease_until)))).scalar_one()
        suppressed = (await connection.execute(select(col(Suppression.email_key)))).scalars().all()
    assert lease is not None
    assert now + LEASE - 5 < lease <= now + LEASE
    assert suppressed == ["person-1@example.test"]
    sent, deferred = await row(ledger, first), await row(ledger, third)
    assert (sent.status, sent.queue_id, sent.relay, sent.attempts) == ("sent", "q", "r", 1)
    assert sent.sent_at is not None
    assert abs(sent.sent_at - now) < 5
    assert deferred.next_attempt_at is not None
    assert 50 < deferred.next_attempt_at - now <= 60


async def test_recording_the_same_group_twice_changes_nothing(ledger: Ledger) -> None:
    """A commit whose answer was lost is repeated: no count moves, no duplicate is claimed."""
    seeded = await seed_campaign(ledger, 3)
    claim = await claimed(ledger, seeded)
    same = group(
        claim,
        result(seeded.recipient_ids[0]),
        result(seeded.recipient_ids[1], "deferred", code=451, delay_seconds=60.0),
    )
    await record(ledger, [same], LEASE)
    again = await record(ledger, [same], LEASE)
    assert again[claim.batch_id].known_duplicates == 0
    assert statuses(again[claim.batch_id]) == [
        "deferred",
        "sent",
    ]  # the first try was never heard of, so this one counts
    found = await assert_counts_add_up(ledger, seeded)
    assert (found["sent"], found["deferred"], found["pending"]) == (1, 1, 1)
    assert (await row(ledger, seeded.recipient_ids[1])).attempts == 1


async def test_another_generation_means_the_batch_is_lost(ledger: Ledger) -> None:
    """Invariant 3: who finds another generation records no opinion, only facts."""
    seeded = await seed_campaign(ledger, 4)
    claim = await claimed(ledger, seeded)
    async with ledger.write() as connection:
        await connection.execute(update(Batch).values(generation=claim.generation + 1, state="waiting"))
    one, two, *_ = seeded.recipient_ids
    recorded = await record(ledger, [group(claim, result(one), result(two, "failed", code=550))], LEASE)
    assert recorded[claim.batch_id].lost is True
    assert statuses(recorded[claim.batch_id]) == ["sent"]  # only what a relay has taken
    assert (await row(ledger, one)).status == "sent"
    assert (await row(ledger, two)).status == "pending"
    await assert_counts_add_up(ledger, seeded)
    assert await claims.renew(ledger, claim.batch_id, claim.generation, LEASE) is False


@pytest.mark.parametrize("closed_as", ["cancelled", "expired", "failed", "unknown", "suppressed"])
async def test_a_250_is_recorded_whatever_happened_meanwhile(ledger: Ledger, closed_as: str) -> None:
    """Invariant 4: facts win."""
    seeded = await seed_campaign(ledger, 2)
    claim = await claimed(ledger, seeded)
    one = seeded.recipient_ids[0]
    async with ledger.write() as connection:
        await connection.execute(update(Recipient).where(col(Recipient.id) == one).values(status=closed_as))
        await connection.execute(
            update(Batch).values(generation=claim.generation + 1, pending=col(Batch.pending) - 1, **{closed_as: 1})
        )
    recorded = await record(ledger, [group(claim, result(one))], LEASE)
    assert recorded[claim.batch_id].known_duplicates == 0
    assert (await row(ledger, one)).status == "sent"
    assert (await assert_counts_add_up(ledger, seeded))["sent"] == 1


async def test_a_second_acceptance_counts_as_a_known_duplicate_and_changes_nothing(ledger: Ledger) -> None:
    seeded = await seed_campaign(ledger, 2)
    claim = await claimed(ledger, seeded)
    one = seeded.recipient_ids[0]
    await record(ledger, [group(claim, result(one, queue_id="first"))], LEASE)
    late = replace(claim, generation=claim.generation - 1)
    recorded = await record(ledger, [group(late, result(one, queue_id="second"))], LEASE)
    assert recorded[claim.batch_id].known_duplicates == 1
    assert statuses(recorded[claim.batch_id]) == []  # counted when it was first recorded
    assert (await row(ledger, one)).queue_id == "first"
    assert (await assert_counts_add_up(ledger, seeded))["sent"] == 1


async def test_one_lost_batch_does_not_hold_up_another(ledger: Ledger) -> None:
    seeded = await seed_campaign(ledger, 4, batch_size=2)
    held = [await claims.claim(ledger, batch_id, 1, "me", LEASE) for batch_id in seeded.batch_ids]
    lost, kept = held
    assert lost is not None
    assert kept is not None
    async with ledger.write() as connection:
        await connection.execute(update(Batch).where(col(Batch.id) == lost.batch_id).values(generation=9))
    recorded = await record(ledger, [group(lost, result(lost.first_id)), group(kept, result(kept.first_id))], LEASE)
    assert (recorded[lost.batch_id].lost, recorded[kept.batch_id].lost) == (True, False)
    assert (await assert_counts_add_up(ledger, seeded))["sent"] == 2


async def test_an_intent_is_stored_before_and_cleared_by_the_result(ledger: Ledger) -> None:
    seeded = await seed_campaign(ledger, 2, delivery="at_most_once")
    claim = await claimed(ledger, seeded)
    one = seeded.recipient_ids[0]
    await record(ledger, [group(claim, intents=(one,))], LEASE)
    assert (await row(ledger, one)).intent_at is not None
    listed = await read_worklist(ledger, claim, DEFAULT_PROJECT, 0, 10)
    assert [item.intended for item in listed] == [True, False]
    await record(ledger, [group(claim, result(one))], LEASE)
    assert (await row(ledger, one)).intent_at is None


async def test_an_intent_is_withdrawn_before_a_new_one_is_written(ledger: Ledger) -> None:
    seeded = await seed_campaign(ledger, 2, delivery="at_most_once")
    claim = await claimed(ledger, seeded)
    one, two = seeded.recipient_ids
    await record(ledger, [group(claim, intents=(one, two))], LEASE)
    await record(ledger, [group(claim, intents=(two,), withdrawals=(one, two))], LEASE)
    listed = await read_worklist(ledger, claim, DEFAULT_PROJECT, 0, 10)
    assert [item.intended for item in listed] == [False, True]


async def test_a_sender_that_lost_the_batch_withdraws_nothing(ledger: Ledger) -> None:
    """The new owner has seen the intent, and may have acted on it."""
    seeded = await seed_campaign(ledger, 1, delivery="at_most_once")
    claim = await claimed(ledger, seeded)
    (one,) = seeded.recipient_ids
    await record(ledger, [group(claim, intents=(one,))], LEASE)
    late = replace(claim, generation=claim.generation - 1)
    recorded = await record(ledger, [group(late, withdrawals=(one,))], LEASE)
    assert recorded[claim.batch_id].lost
    assert (await row(ledger, one)).intent_at is not None


async def test_a_ticket_claims_once(ledger: Ledger) -> None:
    seeded = await seed_campaign(ledger, 2)
    claim = await claims.claim(ledger, seeded.batch_ids[0], 1, "me", LEASE)
    assert claim is not None
    assert claim.generation == 2
    assert await claims.claim(ledger, seeded.batch_ids[0], 1, "you", LEASE) is None
    assert await claims.claim(ledger, seeded.batch_ids[0], 2, "you", LEASE) is None


@pytest.mark.parametrize("status", ["paused", "stopping", "queued", "finished"])
async def test_nothing_is_claimed_of_a_campaign_that_is_not_sending(ledger: Ledger, status: str) -> None:
    seeded = await seed_campaign(ledger, 2, status=status)
    assert await claims.claim(ledger, seeded.batch_ids[0], 1, "me", LEASE) is None


async def test_nothing_is_claimed_after_deliver_by(ledger: Ledger) -> None:
    seeded = await seed_campaign(ledger, 2)
    async with ledger.write() as connection:
        await connection.execute(update(Campaign).values(deliver_by=1.0))
    assert await claims.claim(ledger, seeded.batch_ids[0], 1, "me", LEASE) is None


async def test_the_worklist_is_open_due_and_marks_the_suppressed(ledger: Ledger) -> None:
    seeded = await seed_campaign(ledger, 6)
    claim = await claimed(ledger, seeded)
    ids = seeded.recipient_ids
    async with ledger.write() as connection:
        now = await clock(connection)
        for recipient_id, values in (
            (ids[0], {"status": "sent"}),
            (ids[1], {"status": "deferred", "next_attempt_at": now + 100}),
            (ids[2], {"status": "deferred", "next_attempt_at": now + 10}),
        ):
            await connection.execute(update(Recipient).where(col(Recipient.id) == recipient_id).values(**values))
        await connection.execute(
            Suppression.__table__.insert().values(  # type: ignore[attr-defined]
                project_id=DEFAULT_PROJECT,
                email="x",
                email_key="person-4@example.test",
                reason="manual",
                created_at=now,
            )
        )
    listed = await read_worklist(ledger, claim, DEFAULT_PROJECT, 0, 10)
    assert [item.id for item in listed] == ids[2:]
    assert [item.suppressed for item in listed] == [False, False, True, False]
    rest = await read_worklist(ledger, claim, DEFAULT_PROJECT, ids[3], 1)
    assert [item.id for item in rest] == [ids[4]]


async def let_go(ledger: Ledger, claim: claims.Claim) -> claims.LetGo:
    return await claims.let_go(ledger, claim, retry_jitter=0.05)


async def batch(ledger: Ledger) -> Batch:
    async with ledger.read() as connection:
        return Batch.model_validate(dict((await connection.execute(select(Batch))).mappings().one()))


async def test_a_batch_with_nothing_open_is_done(ledger: Ledger) -> None:
    seeded = await seed_campaign(ledger, 2)
    claim = await claimed(ledger, seeded)
    await record(ledger, [group(claim, *(result(n) for n in seeded.recipient_ids))], LEASE)
    assert (await let_go(ledger, claim)).state == "done"
    after = await batch(ledger)
    assert (after.state, after.owner, after.lease_until) == ("done", None, None)
    assert after.generation == claim.generation + 1
    assert (await let_go(ledger, claim)).state == "lost"


async def test_a_batch_with_deferred_rows_waits_until_the_first_is_due(ledger: Ledger) -> None:
    seeded = await seed_campaign(ledger, 2)
    claim = await claimed(ledger, seeded)
    one, two = seeded.recipient_ids
    changes = [result(one, "deferred", delay_seconds=120.0), result(two, "deferred", delay_seconds=60.0)]
    await record(ledger, [group(claim, *changes)], LEASE)
    left = await let_go(ledger, claim)
    assert (left.state, left.deferred) == ("waiting", 2)
    after = await batch(ledger)
    assert 58 < after.due_at - await ledger.now() <= 63


async def test_a_batch_with_pending_rows_is_given_back_at_once(ledger: Ledger) -> None:
    seeded = await seed_campaign(ledger, 2)
    claim = await claimed(ledger, seeded)
    assert (await let_go(ledger, claim)).state == "waiting"
    after = await batch(ledger)
    assert after.due_at <= await ledger.now()
    assert after.generation == claim.generation + 1


async def test_a_slot_resumes_what_it_held_and_nothing_else(ledger: Ledger) -> None:
    seeded = await seed_campaign(ledger, 4, batch_size=2)
    former = await claims.claim(ledger, seeded.batch_ids[0], 1, "sender-1@host#aa", LEASE)
    assert former is not None
    assert former.is_newly_dated
    await claims.claim(ledger, seeded.batch_ids[1], 1, "sender-1@host#bb", LEASE)
    await asyncio.sleep(claims.NEWLY_DATED_SECONDS)  # a process takes longer to start again
    resumed, requeued = await claims.resume(ledger, "sender-1@host#aa", LEASE, 2)
    assert not requeued
    assert [(claim.batch_id, claim.generation) for claim in resumed] == [(seeded.batch_ids[0], 3)]
    assert resumed[0].dated_at == former.dated_at
    assert not resumed[0].is_newly_dated
    assert not await claims.renew(ledger, former.batch_id, former.generation, LEASE)
    assert await claims.renew(ledger, former.batch_id, 3, LEASE)
    async with ledger.read() as connection:
        rescues = await connection.execute(select(col(Batch.rescues)).order_by(col(Batch.id)))
        assert list(rescues.scalars()) == [1, 0]


async def test_what_a_slot_must_not_resume_is_requeued(ledger: Ledger) -> None:
    """More than it may hold now, and whatever belongs to a paused campaign."""
    seeded = await seed_campaign(ledger, 4, batch_size=2)
    for batch_id in seeded.batch_ids:
        await claims.claim(ledger, batch_id, 1, "sender-1@host#aa", LEASE)
    resumed, requeued = await claims.resume(ledger, "sender-1@host#aa", LEASE, 1)
    assert [claim.batch_id for claim in resumed] == seeded.batch_ids[:1]
    assert [(batch.batch_id, batch.generation) for batch in requeued] == [(seeded.batch_ids[1], 3)]
    async with ledger.write() as connection:
        await connection.execute(update(Campaign).values(status="paused"))
    resumed, requeued = await claims.resume(ledger, "sender-1@host#aa", LEASE, 2)
    assert not resumed
    assert [batch.generation for batch in requeued] == [4]


async def test_the_next_claim_keeps_the_date_or_sets_a_new_one(ledger: Ledger) -> None:
    """After an hour's pause, an email that never left gets the Date of the claim that sends it."""
    seeded = await seed_campaign(ledger, 2)
    claim = await claimed(ledger, seeded)
    for keep_date in (True, False):
        async with ledger.write() as connection:
            await connection.execute(update(Batch).values(dated_at=col(Batch.dated_at) - 3600))
        await claims.let_go(ledger, claim, keep_date=keep_date)
        async with ledger.write() as connection:  # the dispatcher's part
            await connection.execute(update(Batch).values(state="released"))
        before, claim = claim, await claimed(ledger, seeded)
        assert claim.is_newly_dated is not keep_date
        assert (before.dated_at - claim.dated_at > 3500) is keep_date
    assert abs(claim.dated_at - await ledger.now()) < 60


async def test_a_plan_made_while_the_table_was_small_does_not_outlive_it(postgresql_url: str) -> None:
    """A million rows come in without ANALYZE. A plan kept from before would read all of them for every group."""
    ledger = Ledger(postgresql_url, pool_size=1)
    seeded = await seed_campaign(ledger, 40)
    claim = await claimed(ledger, seeded)
    for recipient_id in seeded.recipient_ids[:20]:
        await record(ledger, [group(claim, result(recipient_id))], LEASE)
    grown = 20_000
    async with ledger.write() as connection:
        await connection.execute(
            text(
                "INSERT INTO recipient (campaign_id, email, email_key, status, attempts) "
                "SELECT campaign_id, n || email, n || email_key, 'pending', 0 "
                "FROM recipient, generate_series(1, CAST(:each AS int)) AS n"
            ),
            {"each": grown // 40},
        )
    for recipient_id in seeded.recipient_ids[20:]:
        await record(ledger, [group(claim, result(recipient_id))], LEASE)
    async with ledger.autocommit() as connection:
        await connection.execute(text("SELECT pg_stat_force_next_flush()"))
    async with ledger.read() as connection:
        reads = "SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'recipient'"
        rows_read = (await connection.execute(text(reads))).scalar_one()
    await ledger.close()
    assert rows_read < 2 * grown


async def test_most_results_are_recorded_without_touching_an_index(postgresql_url: str) -> None:
    """Results come in groups, in the order of the rows: half of each page is free for the new versions of the rest."""
    ledger = Ledger(postgresql_url, pool_size=1)
    rows = 2_000
    seeded = await seed_campaign(ledger, rows)
    claim = await claimed(ledger, seeded)
    for first in range(0, rows, 32):
        await record(ledger, [group(claim, *map(result, seeded.recipient_ids[first : first + 32]))], LEASE)
    await ledger.close()  # the server counts what a connection changed at its end
    ledger = Ledger(postgresql_url, pool_size=1)
    counts = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'recipient'"

    updated = heap_only = 0

    async def all_are_counted() -> bool:
        nonlocal updated, heap_only
        async with ledger.read() as connection:
            updated, heap_only = (await connection.execute(text(counts))).one()
        return int(updated) >= rows

    await until(all_are_counted)
    await ledger.close()
    assert heap_only > 0.8 * updated

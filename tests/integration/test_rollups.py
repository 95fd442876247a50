"""The rollup of a campaign always has the counts of the batches in it, whatever happens to them, on both databases."""

from uuid import UUID

import pytest
from sqlalchemy import select, text, update
from sqlmodel import col

from services.dispatcher import closing
from services.dispatcher.deadline import Deadline
from services.dispatcher.rollups import Rollups
from shared.events import CampaignFinished
from shared.ledger import batches, repair, rollups, rows
from shared.ledger.counts import counts
from shared.ledger.database import Ledger
from shared.ledger.models import Batch, Campaign, Rollup
from shared.ledger.rollups import roll_up
from tests.support.ledger import (
    FakeSender,
    add_campaign,
    assert_sound,
    batches_of,
    campaign_row,
    counts_by_status,
)
from tests.support.services import DispatcherRig, concurrently, ledger_at, register_sender

LIST_SHARE = 0.2


@pytest.fixture
def dispatcher(ledger: Ledger) -> DispatcherRig:
    return DispatcherRig.on(ledger, batch_size=100)


@pytest.fixture
async def campaign(ledger: Ledger, dispatcher: DispatcherRig) -> UUID:
    """Of 500 recipients in five batches: three are sent, one of them with failures; two are released."""
    campaign_id = await add_campaign(ledger, 500)
    await register_sender(ledger, 5)
    await dispatcher.settle()
    sender = FakeSender(ledger)
    released = await sender.released()
    for number, (batch_id, generation) in enumerate(released[:3]):
        held = await sender.claim(batch_id, generation)
        assert held is not None
        if number == 1:
            await sender.record(held, status="failed", limit=40)
        await sender.record(held)
        await sender.finish(held)
    return campaign_id


async def rolled_up(ledger: Ledger, campaign: UUID) -> list[int]:
    """The batches that are, counted from 0."""
    return [number for number, batch in enumerate(await batches_of(ledger, campaign)) if batch.rolled_up]


async def test_batches_that_rest_are_rolled_up_once_and_the_counts_stay(ledger: Ledger, campaign: UUID) -> None:
    before = await counts_by_status(ledger, campaign)
    assert await roll_up(ledger, campaign) == 3
    assert await rolled_up(ledger, campaign) == [0, 1, 2], "and none that is out"
    assert await roll_up(ledger, campaign) == 0
    assert (
        await counts_by_status(ledger, campaign) == before == {"total": 500, "sent": 260, "failed": 40, "pending": 200}
    )
    await assert_sound(ledger)


async def test_several_dispatchers_roll_each_batch_up_once(ledger: Ledger, campaign: UUID) -> None:
    await concurrently(*(roll_up(ledger, campaign) for _ in range(4)))
    assert await rolled_up(ledger, campaign) == [0, 1, 2]
    await assert_sound(ledger)


async def test_to_lock_a_batch_takes_it_out(ledger: Ledger, campaign: UUID) -> None:
    """Its counts may change then, by a late result, a report or a repair."""
    await roll_up(ledger, campaign)
    first, second, *_ = await batches_of(ledger, campaign)
    async with ledger.write() as connection:
        await batches.lock(connection, first.id)
        await connection.execute(
            update(Batch).where(col(Batch.id) == first.id).values(sent=col(Batch.sent) - 1, unknown=1)
        )
        await batches.lock_all(connection, [first.id, second.id])
    assert await rolled_up(ledger, campaign) == [2]
    assert (await counts_by_status(ledger, campaign))["unknown"] == 1
    await roll_up(ledger, campaign)
    assert (await counts_by_status(ledger, campaign))["sent"] == 259


async def test_a_batch_in_a_rollup_is_not_released_before_it_is_taken_out(ledger: Ledger, campaign: UUID) -> None:
    """A sender then changes its counts in every group of results, without a look at the rollup."""
    _, _, _, fourth, _ = await batches_of(ledger, campaign)
    async with ledger.write() as connection:
        [waiting] = await batches.requeue(connection, col(Batch.id) == fourth.id, due_in_seconds=1000.0)
    await roll_up(ledger, campaign)
    assert await rolled_up(ledger, campaign) == [0, 1, 2, 3]
    async with ledger.write() as connection:
        release = (connection, fourth.id, waiting.generation)
        assert not await batches.release(*release, due_at=0.0, span_seconds=None)
        await batches.lock(connection, fourth.id)
        assert await batches.release(*release, due_at=0.0, span_seconds=None)


async def test_a_retry_takes_its_batch_out(ledger: Ledger, dispatcher: DispatcherRig, campaign: UUID) -> None:
    sender = FakeSender(ledger)
    batch_id, generation = (await sender.released())[0]
    held = await sender.claim(batch_id, generation)
    assert held is not None
    await sender.record(held, status="deferred", limit=10, delay=1000.0)
    await sender.record(held)
    await sender.finish(held, due_in=10.0)
    await roll_up(ledger, campaign)
    assert await rolled_up(ledger, campaign) == [0, 1, 2], "a retry that is due soon does not rest"
    async with ledger.write() as connection:
        await connection.execute(
            update(Batch).where(col(Batch.id) == batch_id).values(due_at=col(Batch.due_at) + 1000.0)
        )
    await roll_up(ledger, campaign)
    assert await rolled_up(ledger, campaign) == [0, 1, 2, 3]
    async with ledger.write() as connection:
        await connection.execute(update(Batch).where(col(Batch.id) == batch_id).values(due_at=0.0))
    await dispatcher.settle()
    assert await rolled_up(ledger, campaign) == [0, 1, 2]
    await sender.send_all_released()
    await assert_sound(ledger)


@pytest.mark.parametrize("stop_as", ["cancelled", "expired"])
async def test_stopping_closes_the_recipients_of_rolled_up_batches(
    ledger: Ledger, dispatcher: DispatcherRig, campaign: UUID, stop_as: str
) -> None:
    async with ledger.write() as connection:
        await connection.execute(update(Campaign).values(status="stopping", stop_as=stop_as))
        await batches.requeue(connection, col(Batch.state) == "released", due_in_seconds=1000.0)
    await roll_up(ledger, campaign)
    assert await rolled_up(ledger, campaign) == [0, 1, 2, 3, 4]
    await dispatcher.settle()
    assert await counts_by_status(ledger, campaign) == {"total": 500, "sent": 260, "failed": 40, stop_as: 200}
    await assert_sound(ledger)


async def test_opening_the_failed_again_takes_out_the_batches_that_have_some(
    ledger: Ledger, dispatcher: DispatcherRig, campaign: UUID
) -> None:
    await FakeSender(ledger).send_all_released()
    await roll_up(ledger, campaign)
    async with ledger.write() as connection:
        await connection.execute(update(Campaign).values(reopen="failed"))
    await dispatcher.settle()
    assert 1 not in await rolled_up(ledger, campaign)
    assert await counts_by_status(ledger, campaign) == {"total": 500, "sent": 460, "pending": 40}
    await assert_sound(ledger)


async def test_the_dispatcher_keeps_few_batches_outside(
    ledger: Ledger, campaign: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = Rollups(ledger)
    await keeper.tick()
    assert await rolled_up(ledger, campaign) == [], "there are too few to matter"
    monkeypatch.setattr(rollups, "MOST_RESTING", 3)
    monkeypatch.setattr(rollups, "BATCHES_AT_ONCE", 2)
    await keeper.tick()
    assert await rolled_up(ledger, campaign) == [0, 1, 2]


async def test_closing_adds_up_a_rollup_that_is_wrong(
    ledger: Ledger, dispatcher: DispatcherRig, campaign: UUID
) -> None:
    """During an update the release before may change a batch that is in it."""
    await FakeSender(ledger).send_all_released()
    await roll_up(ledger, campaign)
    async with ledger.write() as connection:
        await connection.execute(text("UPDATE rollup SET sent = sent - 7"))
    closed = await closing.close(ledger, campaign, LIST_SHARE, Deadline(60))
    assert closed == CampaignFinished(campaign_id=campaign, status="finished")
    assert (await campaign_row(ledger, campaign)).status == "finished"
    assert await counts_by_status(ledger, campaign) == {"total": 500, "sent": 460, "failed": 40}
    await assert_sound(ledger)


@pytest.mark.parametrize("damage", ["UPDATE batch SET sent = sent - 7, failed = 7", "DELETE FROM batch"])
async def test_a_repair_adds_up_the_rollup_too(ledger: Ledger, campaign: UUID, damage: str) -> None:
    """The batch was damaged while its counts were in it."""
    before = await counts_by_status(ledger, campaign)
    await roll_up(ledger, campaign)
    first, *_ = await batches_of(ledger, campaign)
    async with ledger.write() as connection:
        await connection.execute(text(f"{damage} WHERE id = {first.id}"))
    assert await repair.repair(ledger, campaign)
    assert await counts_by_status(ledger, campaign) == before
    await assert_sound(ledger)


async def test_the_counts_read_no_batch_that_is_rolled_up(ledger: Ledger, campaign: UUID) -> None:
    """So a large campaign costs no more than a small one."""
    await roll_up(ledger, campaign)
    async with ledger.write() as connection:
        await connection.execute(update(Batch).where(col(Batch.rolled_up)).values(sent=0))
    assert (await counts_by_status(ledger, campaign))["sent"] == 260


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("analyzed", [True, False])
async def test_the_counts_of_a_large_campaign_look_at_few_batches(
    postgresql_url: str, mode: str, analyzed: bool
) -> None:
    async with ledger_at(postgresql_url) as ledger:
        large = await add_campaign(ledger, 0, status="sending")
        async with ledger.write() as connection:
            await connection.execute(text(BATCHES), {"campaign": large})
            await connection.execute(rows.insert_missing(connection, Rollup).values(campaign_id=large, sent=2_997_000))
            if analyzed:
                await connection.execute(text("ANALYZE batch"))
            await connection.execute(text(f"SET LOCAL plan_cache_mode = '{mode}'"))
            before = await connection.scalar(text(LOOKED_AT))
            assert (await counts(connection, large))["sent"] == 3_000_000
            assert await connection.scalar(text(LOOKED_AT)) - before <= 10


BATCHES = """
    INSERT INTO batch (campaign_id, first_id, last_id, size, sent, state, due_at, rolled_up)
    SELECT :campaign, n * 1000 - 999, n * 1000, 1000, 1000, 'done', 0, n % 1000 > 0 FROM generate_series(1, 3000) AS n
"""
LOOKED_AT = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'batch'"


async def test_a_deleted_campaign_takes_its_rollup_along(ledger: Ledger, campaign: UUID) -> None:
    await roll_up(ledger, campaign)
    async with ledger.write() as connection:
        for table in ("batch", "recipient", "campaign"):
            await connection.execute(text(f"DELETE FROM {table}"))
    async with ledger.read() as connection:
        assert (await connection.execute(select(col(Rollup.campaign_id)))).all() == []

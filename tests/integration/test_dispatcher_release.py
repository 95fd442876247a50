"""Splitting and releasing: lazily, within the window, in a fair order, within the limits, and nothing twice."""

from collections import Counter
from itertools import pairwise
from uuid import UUID

import pytest
from sqlalchemy import insert, select, text, update
from sqlmodel import col

from shared.events import BatchReleased
from shared.ledger.database import Ledger, db_now
from shared.ledger.models import DEFAULT_PROJECT, Batch, Campaign, RateLimit
from shared.ledger.states import CampaignStatus
from tests.support.ledger import (
    FakeSender,
    add_campaign,
    assert_sound,
    batches_of,
    campaign_row,
    counts_by_status,
    timeline_of,
)
from tests.support.services import DispatcherRig, concurrently, register_sender


async def limit(ledger: Ledger, scope: str, emails_per_second: float) -> None:
    async with ledger.write() as connection:
        await connection.execute(
            insert(RateLimit).values(scope=scope, emails_per_second=emails_per_second, free_at=db_now())
        )


async def pass_time(ledger: Ledger, seconds: float) -> None:
    """Moves every limit and every batch this many seconds into the past."""
    async with ledger.write() as connection:
        await connection.execute(update(RateLimit).values(free_at=col(RateLimit.free_at) - seconds))
        await connection.execute(
            update(Batch).values(due_at=col(Batch.due_at) - seconds, released_at=col(Batch.released_at) - seconds)
        )


async def test_a_campaign_is_split_lazily_and_runs_to_its_end(ledger: Ledger) -> None:
    campaign = await add_campaign(ledger, 2300)
    rig, sender = DispatcherRig.on(ledger), FakeSender(ledger)
    assert await rig.round()
    row = await campaign_row(ledger, campaign)
    batches = await batches_of(ledger, campaign)
    assert row.status == CampaignStatus.SENDING
    assert row.started_at is not None
    assert [(batch.size, batch.state, batch.generation) for batch in batches] == [(500, "released", 1)] * 2
    assert row.cursor == batches[-1].last_id
    assert [event.batch_id for event in rig.bus.of(BatchReleased)] == [batch.id for batch in batches]
    assert not await rig.round(), "the window is full"

    while await sender.send_all_released() + await rig.settle():
        await assert_sound(ledger)
    assert (await campaign_row(ledger, campaign)).status == CampaignStatus.FINISHED
    assert await counts_by_status(ledger, campaign) == {"total": 2300, "sent": 2300}
    assert [kind for kind, _ in await timeline_of(ledger, campaign)] == ["started", "finished"]
    assert set(sender.sent.values()) == {1}
    assert len(sender.sent) == 2300


async def test_the_window_follows_the_live_slots(ledger: Ledger) -> None:
    campaign = await add_campaign(ledger, 20_000)
    rig = DispatcherRig.on(ledger, batch_size=100)
    await rig.settle()
    assert len(await batches_of(ledger, campaign)) == 2, "the floor, while no sender is known"
    await register_sender(ledger, 2, "sender-1@test")
    await register_sender(ledger, 3, "sender-2@test")
    await rig.settle()
    assert len(await batches_of(ledger, campaign)) == 10
    assert rig.value("live_slots") == 5
    assert rig.value("release_window_batches") == 10
    assert rig.value("batches_out") == 10


async def test_leases_show_slots_if_no_heartbeat_arrives(ledger: Ledger) -> None:
    campaign = await add_campaign(ledger, 20_000)
    rig, sender = DispatcherRig.on(ledger, batch_size=100), FakeSender(ledger)
    for _ in range(3):
        await rig.settle()
        for ticket in await sender.released():
            await sender.claim(*ticket)
    out = [batch for batch in await batches_of(ledger, campaign) if batch.state == "sending"]
    assert len(out) > 2


async def test_a_small_campaign_gives_work_to_every_slot(ledger: Ledger) -> None:
    await register_sender(ledger, 4)
    campaign = await add_campaign(ledger, 1000)
    await DispatcherRig.on(ledger).settle()
    assert [batch.size for batch in await batches_of(ledger, campaign)] == [250] * 4


async def test_a_small_campaign_is_served_beside_a_large_one(ledger: Ledger) -> None:
    large = await add_campaign(ledger, 10_000)
    rig, sender = DispatcherRig.on(ledger, batch_size=100, window_floor=4), FakeSender(ledger)
    await rig.settle()
    small = await add_campaign(ledger, 100)
    await sender.send_all_released()
    await rig.settle()
    released = Counter(event.campaign_id for event in rig.bus.of(BatchReleased)[4:])
    assert released[small] == 1
    assert released[large] == 3


async def test_equals_alternate_even_if_there_are_more_than_the_window_holds(ledger: Ledger) -> None:
    campaigns = [await add_campaign(ledger, 1000) for _ in range(6)]
    rig, sender = DispatcherRig.on(ledger, batch_size=100, window_floor=2), FakeSender(ledger)
    for _ in range(6):
        await rig.settle()
        await sender.send_all_released()
    served = Counter(event.campaign_id for event in rig.bus.of(BatchReleased))
    assert [served[campaign] for campaign in campaigns] == [2] * 6


async def test_the_higher_priority_gets_more_and_the_lower_something(ledger: Ledger) -> None:
    low = await add_campaign(ledger, 5000)
    high = await add_campaign(ledger, 5000, priority=100)
    rig = DispatcherRig.on(ledger, batch_size=100, window_floor=6)
    await rig.settle()
    served = Counter(event.campaign_id for event in rig.bus.of(BatchReleased))
    assert rig.bus.of(BatchReleased)[0].campaign_id == high
    assert served == {high: 5, low: 1}


async def test_retries_and_new_batches_alternate(ledger: Ledger) -> None:
    campaign = await add_campaign(ledger, 1000)
    rig, sender = DispatcherRig.on(ledger, batch_size=100, window_floor=4), FakeSender(ledger)
    await rig.settle()
    for ticket in await sender.released():
        held = await sender.claim(*ticket)
        assert held is not None
        await sender.record(held, "deferred", limit=5, delay=60)
        await sender.record(held)
        await sender.finish(held)
    await rig.settle()
    batches = await batches_of(ledger, campaign)
    assert Counter(batch.generation == 1 for batch in batches if batch.state == "released") == {True: 2, False: 2}


async def test_a_retry_is_not_released_before_it_is_due(ledger: Ledger) -> None:
    await add_campaign(ledger, 50)
    rig, sender = DispatcherRig.on(ledger), FakeSender(ledger)
    await rig.settle()
    held = await sender.claim(*(await sender.released())[0])
    assert held is not None
    await sender.record(held, "deferred", delay=60)
    await sender.finish(held, due_in=60)
    assert await rig.settle() == 0
    await pass_time(ledger, 59)
    assert await rig.settle() == 0
    await pass_time(ledger, 1)
    assert await rig.settle() == 1


async def test_two_dispatchers_never_split_the_same_range(ledger: Ledger) -> None:
    campaign = await add_campaign(ledger, 3000)
    rigs = [DispatcherRig.on(ledger, batch_size=50, window_floor=8) for _ in range(2)]
    sender = FakeSender(ledger)
    for _ in range(100):
        busy = await concurrently(*(rig.round() for rig in rigs))
        await assert_sound(ledger)
        if not await sender.send_all_released() and not any(busy):
            break
    tickets = [(event.batch_id, event.generation) for rig in rigs for event in rig.bus.of(BatchReleased)]
    assert len(tickets) == len(set(tickets))
    assert set(sender.sent.values()) == {1}
    assert await counts_by_status(ledger, campaign) == {"total": 3000, "sent": 3000}
    assert (await campaign_row(ledger, campaign)).status == CampaignStatus.FINISHED
    assert [kind for kind, _ in await timeline_of(ledger, campaign)] == ["started", "finished"]


async def test_two_dispatchers_release_a_waiting_batch_once(ledger: Ledger) -> None:
    campaign = await add_campaign(ledger, 400)
    await DispatcherRig.on(ledger, batch_size=50, window_floor=8).settle()
    rigs = [DispatcherRig.on(ledger, batch_size=50, window_floor=8) for _ in range(2)]
    async with ledger.write() as connection:
        await connection.execute(text("UPDATE batch SET state = 'waiting', generation = generation + 1"))
    await concurrently(*(rig.round() for rig in rigs))
    assert [(batch.state, batch.generation) for batch in await batches_of(ledger, campaign)] == [("released", 3)] * 8
    assert sum(len(rig.bus.of(BatchReleased)) for rig in rigs) == 8


class TestLimits:
    async def spans(self, ledger: Ledger, campaign: UUID) -> list[tuple[float, float, int]]:
        """Of each batch: when it starts, how long it takes, how many emails it has."""
        return [(batch.due_at, batch.span_seconds, batch.size) for batch in await batches_of(ledger, campaign)]

    async def test_spans_follow_each_other_and_add_up_to_the_limit(self, ledger: Ledger) -> None:
        campaign = await add_campaign(ledger, 1000, emails_per_second=100.0)
        rig = DispatcherRig.on(ledger, batch_size=50, window_floor=20)
        await rig.settle()
        spans = await self.spans(ledger, campaign)
        assert len(spans) > 1
        for batch in await batches_of(ledger, campaign):
            assert batch.due_at <= batch.released_at + 1.6, "a batch is released at most 1.5 s before it is due"
        for (begins, seconds, _), (following, _, _) in pairwise(spans):
            assert seconds == pytest.approx(0.5)
            assert following >= begins + seconds - 0.001

    async def test_a_limited_batch_holds_at_most_limited_batch_seconds_of_its_rate(self, ledger: Ledger) -> None:
        slow = await add_campaign(ledger, 1000, emails_per_second=2.0)
        slowest = await add_campaign(ledger, 1000, emails_per_second=0.01)
        await DispatcherRig.on(ledger, limited_batch_seconds=10.0).settle()
        assert [batch.size for batch in await batches_of(ledger, slow)] == [20]
        assert [batch.size for batch in await batches_of(ledger, slowest)] == [1]

    async def test_nothing_is_released_while_the_limit_is_taken(self, ledger: Ledger) -> None:
        campaign = await add_campaign(ledger, 1000, emails_per_second=10.0)
        rig, sender = DispatcherRig.on(ledger), FakeSender(ledger)
        await rig.settle()
        assert await sender.send_all_released() == 300
        assert await rig.settle() == 0
        await pass_time(ledger, 30)
        assert await rig.settle() == 1
        assert len(await batches_of(ledger, campaign)) == 2

    async def test_a_batch_that_is_half_done_reserves_only_its_rest_at_the_same_pace(self, ledger: Ledger) -> None:
        campaign = await add_campaign(ledger, 100, emails_per_second=10.0)
        rig, sender = DispatcherRig.on(ledger), FakeSender(ledger)
        await rig.settle()
        held = await sender.claim(*(await sender.released())[0])
        assert held is not None
        await sender.record(held, limit=60)
        await sender.finish(held)
        await pass_time(ledger, 20)
        await rig.settle()
        (batch,) = await batches_of(ledger, campaign)
        assert (batch.state, batch.span_seconds) == ("released", pytest.approx(10.0))
        async with ledger.read() as connection:
            reserved = await connection.scalar(select(col(RateLimit.free_at)))
        assert reserved == pytest.approx(batch.due_at + 4.0, abs=0.5)

    async def test_a_project_limit_is_shared_by_its_campaigns(self, ledger: Ledger) -> None:
        await limit(ledger, f"project:{DEFAULT_PROJECT}", 100.0)
        first = await add_campaign(ledger, 500)
        second = await add_campaign(ledger, 500, emails_per_second=1000.0)
        await DispatcherRig.on(ledger, batch_size=50, window_floor=20).settle()
        spans = sorted([*await self.spans(ledger, first), *await self.spans(ledger, second)])
        for (begins, seconds, _), (following, _, _) in pairwise(spans):
            assert seconds == pytest.approx(0.5)
            assert following >= begins + seconds - 0.001

    async def test_two_dispatchers_reserve_spans_that_do_not_overlap(self, ledger: Ledger) -> None:
        campaign = await add_campaign(ledger, 5000, emails_per_second=1000.0)
        rigs = [DispatcherRig.on(ledger, batch_size=100, window_floor=20) for _ in range(2)]
        for _ in range(5):
            await concurrently(*(rig.round() for rig in rigs))
        spans = await self.spans(ledger, campaign)
        assert len(spans) > 5
        for (begins, seconds, _), (following, _, _) in pairwise(spans):
            assert following >= begins + seconds - 0.001

    async def test_no_batch_follows_one_that_no_sender_has_claimed(self, ledger: Ledger) -> None:
        """While senders are busy: batches that each keep the limit alone must not all start at once afterwards."""
        campaign = await add_campaign(ledger, 1000, emails_per_second=100.0)
        rig = DispatcherRig.on(ledger, batch_size=200)
        await rig.settle()
        await pass_time(ledger, 3)
        assert await rig.settle() == 0
        assert len(await batches_of(ledger, campaign)) == 1

    async def test_a_batch_that_starts_late_delays_the_next(self, ledger: Ledger) -> None:
        campaign = await add_campaign(ledger, 1000, emails_per_second=100.0)
        rig, sender = DispatcherRig.on(ledger, batch_size=200), FakeSender(ledger)
        await rig.settle()
        await pass_time(ledger, 3)
        await sender.claim(*(await sender.released())[0])
        assert await rig.settle() == 0, "it takes two seconds from now on, whatever was reserved"
        async with ledger.write() as connection:
            await connection.execute(update(Batch).values(claimed_at=col(Batch.claimed_at) - 1.0))
        assert await rig.settle() == 1
        late, following = await batches_of(ledger, campaign)
        assert following.due_at == pytest.approx(late.claimed_at + 2.0, abs=0.5)
        assert following.due_at >= late.claimed_at + 2.0 - 0.001

    async def test_a_changed_rate_applies_from_the_next_batch(self, ledger: Ledger) -> None:
        campaign = await add_campaign(ledger, 1000, emails_per_second=10.0)
        rig = DispatcherRig.on(ledger)
        await rig.settle()
        async with ledger.write() as connection:
            await connection.execute(
                update(Campaign).where(col(Campaign.id) == campaign).values(emails_per_second=20.0)
            )
            await connection.execute(update(RateLimit).values(emails_per_second=20.0))
        await FakeSender(ledger).send_all_released()
        await pass_time(ledger, 30)
        await rig.settle()
        assert [(batch.size, batch.span_seconds) for batch in await batches_of(ledger, campaign)] == [
            (300, pytest.approx(30)),
            (500, pytest.approx(25)),
        ]

    async def test_slow_campaigns_leave_slots_to_the_others(self, ledger: Ledger) -> None:
        slow = [await add_campaign(ledger, 1000, emails_per_second=1.0) for _ in range(6)]
        quick = await add_campaign(ledger, 5000)
        await register_sender(ledger, 4)
        rig = DispatcherRig.on(ledger)
        await rig.settle()
        served = Counter(event.campaign_id for event in rig.bus.of(BatchReleased))
        assert sum(served[campaign] for campaign in slow) == 2
        assert served[quick] == 6

    async def test_a_batch_sent_at_a_limited_rate_takes_no_place(self, ledger: Ledger) -> None:
        """A sender works on many such batches beside its places: they count neither as out nor as slots."""
        slow = [await add_campaign(ledger, 1000, emails_per_second=1.0) for _ in range(3)]
        rig, sender = DispatcherRig.on(ledger, window_floor=2), FakeSender(ledger)
        for _ in slow:
            await rig.settle()
            for ticket in await sender.released():
                assert await sender.claim(*ticket)
        assert {batch.state for one in slow for batch in await batches_of(ledger, one)} == {"sending"}
        quick = await add_campaign(ledger, 5000)
        await rig.settle()
        assert len(await batches_of(ledger, quick)) == 2, "the floor of the window: no slot is known"

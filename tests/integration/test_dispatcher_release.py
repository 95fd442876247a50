"""Splitting and releasing: lazily, within the window, in a fair order, within the limits, and nothing twice."""

from collections import Counter
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import insert, text, update
from sqlmodel import col

from services.dispatcher.survey import look_at
from shared.events import AnyProgress, BatchReleased, CampaignRequested
from shared.ledger.database import Ledger, db_now
from shared.ledger.models import DEFAULT_PROJECT, Batch, Campaign, RateLimit
from shared.ledger.prewarm import NO_ID
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


@pytest.fixture(autouse=True)
def awaits_no_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """A campaign fills the window at once: see test_batch_sizes.py for how it begins beside senders."""
    monkeypatch.setattr("services.dispatcher.paces.PATIENCE_SECONDS", 0.0)


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


async def all_out(ledger: Ledger, *campaigns: UUID) -> Counter[UUID]:
    """Batches released or being sent, by campaign."""
    found = [batch for campaign in campaigns for batch in await batches_of(ledger, campaign)]
    return Counter(batch.campaign_id for batch in found if batch.state in ("released", "sending"))


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


async def test_a_campaign_alone_gets_its_batches_in_two_transactions(ledger: Ledger) -> None:
    campaign = await add_campaign(ledger, 2300)
    await register_sender(ledger, 4)
    rig = DispatcherRig.on(ledger)
    await rig.round()
    assert [batch.size for batch in await batches_of(ledger, campaign)] == [500, 500, 500, 500, 300]
    assert rig.value("batches_released_total", kind="fresh") == 5
    assert rig.value("release_seconds_count") == 2, "first those that senders can take now"
    assert len(rig.bus.of(BatchReleased)) == 5
    await assert_sound(ledger)


async def test_a_transaction_creates_batches_for_a_limited_number_of_recipients(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.dispatcher.release.CUT_RECIPIENTS", 1000)
    campaign = await add_campaign(ledger, 2299)
    await register_sender(ledger, 5)
    rig = DispatcherRig.on(ledger)
    await rig.round()
    assert [batch.size for batch in await batches_of(ledger, campaign)] == [460, 460, 460, 460, 459]
    assert rig.value("release_seconds_count") == 3, "two, two and one"
    await assert_sound(ledger)


class TestEventsWhileSendersHaveBatchesAhead:
    """A round serves a few batches that end, but no sender waits for it, and no other campaign."""

    async def full(self, ledger: Ledger) -> tuple[DispatcherRig, UUID, UUID]:
        """A window of 8 batches that no sender has claimed: all of one campaign but one."""
        large, small = await add_campaign(ledger, 20_000), await add_campaign(ledger, 10)
        await register_sender(ledger, 4)
        rig = DispatcherRig.on(ledger)
        await rig.round()
        assert await all_out(ledger, large, small) == {large: 7, small: 1}
        assert not rig.dispatcher.is_woken
        return rig, large, small

    async def test_half_of_what_is_ahead_starts_a_round(self, ledger: Ledger) -> None:
        rig, large, _ = await self.full(ledger)
        for _ in range(3):
            await rig.dispatcher.on_progress(AnyProgress(campaign_id=large))
        assert not rig.dispatcher.is_woken
        await rig.dispatcher.on_progress(AnyProgress(campaign_id=large))
        assert rig.dispatcher.is_woken

    async def test_a_moment_starts_a_round(self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        rig, large, _ = await self.full(ledger)
        monkeypatch.setattr("services.dispatcher.dispatcher.GATHER_SECONDS", 0.0)
        await rig.dispatcher.on_progress(AnyProgress(campaign_id=large))
        assert not rig.dispatcher.is_woken
        assert await rig.dispatcher._wait() == "event"

    async def test_a_campaign_that_waits_for_no_room_starts_a_round_at_once(self, ledger: Ledger) -> None:
        rig, _, small = await self.full(ledger)
        await rig.dispatcher.on_progress(AnyProgress(campaign_id=small))
        assert rig.dispatcher.is_woken

    async def test_a_request_starts_a_round_at_once(self, ledger: Ledger) -> None:
        rig, large, _ = await self.full(ledger)
        await rig.dispatcher.on_request(CampaignRequested(campaign_id=large))
        assert rig.dispatcher.is_woken

    async def all_cut(self, ledger: Ledger, **settings: Any) -> tuple[DispatcherRig, UUID]:
        """The last four batches of a campaign, and nothing else to release."""
        campaign = await add_campaign(ledger, 1000)
        await register_sender(ledger, 4)
        rig = DispatcherRig.on(ledger, **settings)
        await rig.round()
        return rig, campaign

    async def test_of_the_batches_at_the_end_only_the_last_starts_a_round(self, ledger: Ledger) -> None:
        rig, campaign = await self.all_cut(ledger)
        for _ in range(3):
            await rig.dispatcher.on_progress(AnyProgress(campaign_id=campaign))
        assert not rig.dispatcher.is_woken
        await rig.dispatcher.on_progress(AnyProgress(campaign_id=campaign))
        assert rig.dispatcher.is_woken

    async def test_a_moment_starts_a_round_at_the_end_too(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rig, campaign = await self.all_cut(ledger)
        monkeypatch.setattr("services.dispatcher.dispatcher.GATHER_SECONDS", 0.0)
        await rig.dispatcher.on_progress(AnyProgress(campaign_id=campaign))
        assert not rig.dispatcher.is_woken
        assert await rig.dispatcher._wait() == "event"

    async def test_a_batch_that_ended_waits_for_the_clock_at_the_end(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rig, campaign = await self.all_cut(ledger, clock_seconds=0.1)
        monkeypatch.setattr("services.dispatcher.dispatcher.GATHER_SECONDS", 0.0)
        for _ in range(3):
            await rig.dispatcher.on_progress(AnyProgress(campaign_id=campaign, emails_per_second=1000.0))
        assert await rig.dispatcher._wait() == "clock"
        await rig.dispatcher.on_progress(AnyProgress(campaign_id=campaign, emails_per_second=1000.0))
        assert rig.dispatcher.is_woken, "the last one"

    async def test_batches_that_end_during_a_round_start_another(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The round has looked before they ended, and counts them as out."""
        rig, campaign = await self.all_cut(ledger)

        async def look_and_be_late(*arguments: Any) -> Any:
            seen = await look_at(*arguments)
            await rig.dispatcher.on_progress(AnyProgress(campaign_id=campaign, emails_per_second=1000.0))
            return seen

        monkeypatch.setattr("services.dispatcher.dispatcher.look_at", look_and_be_late)
        await rig.round()
        assert rig.dispatcher.is_woken

    async def test_what_another_dispatcher_released_starts_a_round_at_once(self, ledger: Ledger) -> None:
        rig, _ = await self.all_cut(ledger)
        await rig.dispatcher.on_progress(AnyProgress(campaign_id=NO_ID))
        assert rig.dispatcher.is_woken


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


async def test_a_small_campaign_gets_the_place_of_a_batch_that_no_sender_has_claimed(ledger: Ledger) -> None:
    large = await add_campaign(ledger, 2000)
    rig, sender = DispatcherRig.on(ledger, batch_size=100, window_floor=4), FakeSender(ledger)
    await rig.settle()
    tickets = await sender.released()
    held = await sender.claim(*tickets[0])
    assert held is not None
    small = [await add_campaign(ledger, 100) for _ in range(5)]
    await rig.settle()
    assert await all_out(ledger, large, *small) == {large: 1, **dict.fromkeys(small[:3], 1)}, "no more than the window"
    assert [await sender.claim(*ticket) for ticket in tickets[1:]] == [None] * 3, "their tickets are stale"
    assert rig.value("batches_recalled_total") == 3
    await sender.record(held)
    await sender.finish(held)
    while await sender.send_all_released() + await rig.settle():
        await assert_sound(ledger)
    assert set(sender.sent.values()) == {1}
    assert len(sender.sent) == 2500


async def test_a_small_campaign_does_not_wait_behind_the_tickets_of_a_large_one(ledger: Ledger) -> None:
    large = await add_campaign(ledger, 2000)
    rig, sender = DispatcherRig.on(ledger, batch_size=100, window_floor=4), FakeSender(ledger)
    await rig.settle()
    tickets = await sender.released()
    assert await sender.claim(*tickets[0]) is not None
    small = await add_campaign(ledger, 100)
    await rig.settle()
    assert [event.campaign_id for event in rig.bus.of(BatchReleased)[4:]] == [small, large, large]
    assert [await sender.claim(*ticket) for ticket in tickets[1:]] == [None] * 3
    assert await all_out(ledger, large, small) == {large: 3, small: 1}


async def test_nothing_is_taken_back_from_campaigns_with_one_batch_out(ledger: Ledger) -> None:
    campaigns = [await add_campaign(ledger, 1000) for _ in range(3)]
    rig = DispatcherRig.on(ledger, batch_size=100, window_floor=2)
    await rig.settle()
    assert len(rig.bus.of(BatchReleased)) == 2
    assert await all_out(ledger, *campaigns) == dict.fromkeys(campaigns[:2], 1)


async def test_two_dispatchers_that_take_batches_back_release_nothing_twice(ledger: Ledger) -> None:
    large = await add_campaign(ledger, 2000)
    rigs = [DispatcherRig.on(ledger, batch_size=100, window_floor=4) for _ in range(2)]
    await rigs[0].settle()
    small = await add_campaign(ledger, 100)
    await concurrently(*(rig.settle() for rig in rigs))
    assert (await all_out(ledger, large, small))[small] == 1
    await assert_sound(ledger)
    sender = FakeSender(ledger)
    while await sender.send_all_released() + await rigs[0].settle():
        await assert_sound(ledger)
    assert set(sender.sent.values()) == {1}
    assert len(sender.sent) == 2100


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
    async def test_a_batch_follows_when_what_is_out_takes_less_than_five_seconds(self, ledger: Ledger) -> None:
        campaign = await add_campaign(ledger, 1000, emails_per_second=20.0)
        rig, sender = DispatcherRig.on(ledger, batch_size=400), FakeSender(ledger)
        await rig.settle()
        assert [batch.size for batch in await batches_of(ledger, campaign)] == [400]
        held = await sender.claim(*(await sender.released())[0])
        assert held is not None
        await sender.record(held, limit=299)
        assert await rig.settle() == 0
        await sender.record(held, limit=1)
        assert await rig.settle() == 1
        assert await rig.settle() == 0
        assert [batch.size for batch in await batches_of(ledger, campaign)] == [400, 400]

    async def test_quick_campaigns_have_as_many_batches_out_as_they_need(self, ledger: Ledger) -> None:
        campaign = await add_campaign(ledger, 5000, emails_per_second=100.0)
        await DispatcherRig.on(ledger, batch_size=100, window_floor=20).settle()
        assert len(await batches_of(ledger, campaign)) == 6

    async def test_a_limited_batch_holds_at_most_limited_batch_seconds_of_its_rate(self, ledger: Ledger) -> None:
        slow = await add_campaign(ledger, 1000, emails_per_second=2.0)
        slowest = await add_campaign(ledger, 1000, emails_per_second=0.01)
        await DispatcherRig.on(ledger, limited_batch_seconds=10.0).settle()
        assert [batch.size for batch in await batches_of(ledger, slow)] == [20]
        assert [batch.size for batch in await batches_of(ledger, slowest)] == [1]

    async def test_a_batch_does_not_wait_for_the_last_emails_of_another(self, ledger: Ledger) -> None:
        """Nine tenths of a batch have a result: the others may hang, and hold up nothing."""
        campaign = await add_campaign(ledger, 1000, emails_per_second=1.0)
        rig, sender = DispatcherRig.on(ledger, limited_batch_seconds=100.0), FakeSender(ledger)
        await rig.settle()
        held = await sender.claim(*(await sender.released())[0])
        assert held is not None
        await sender.record(held, limit=89)
        assert await rig.settle() == 0
        await sender.record(held, limit=1)
        assert await rig.settle() == 1
        assert len(await batches_of(ledger, campaign)) == 2

    async def test_a_project_whose_cap_is_used_up_releases_nothing(self, ledger: Ledger) -> None:
        await limit(ledger, f"project:{DEFAULT_PROJECT}", 100.0)
        async with ledger.write() as connection:
            await connection.execute(update(RateLimit).values(emails_per_day=10, day=10**6, day_count=10))
        await add_campaign(ledger, 500)
        rig = DispatcherRig.on(ledger)
        await rig.settle()
        assert rig.bus.of(BatchReleased) == []
        async with ledger.write() as connection:
            await connection.execute(update(RateLimit).values(emails_per_day=11))
        await rig.settle()
        assert len(rig.bus.of(BatchReleased)) == 1

    async def test_a_changed_rate_applies_to_the_size_of_the_next_batch(self, ledger: Ledger) -> None:
        campaign = await add_campaign(ledger, 1000, emails_per_second=10.0)
        rig = DispatcherRig.on(ledger)
        await rig.settle()
        async with ledger.write() as connection:
            await connection.execute(update(Campaign).values(emails_per_second=5.0))
            await connection.execute(update(RateLimit).values(emails_per_second=5.0))
        await FakeSender(ledger).send_all_released()
        await rig.settle()
        assert [batch.size for batch in await batches_of(ledger, campaign)] == [300, 150]

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

"""Rescues: only of batches that the ledger's clock, or the heartbeat of their live sender, shows to be stuck."""

import pytest
from sqlalchemy import select, text, update
from sqlmodel import col

from services.sender.db import claims
from shared.events import AnyProgress, BatchProgress, BatchRequeued, SenderHeartbeat
from shared.ledger import campaigns, instances
from shared.ledger.batches import MOST_FRUITLESS, RESCUE_POINTS
from shared.ledger.database import Ledger, db_now
from shared.ledger.models import Batch, Campaign, ServiceInstance
from shared.ledger.states import CampaignStatus
from tests.support.ledger import FakeSender, Held, add_campaign, assert_sound, batches_of, campaign_row, timeline_of
from tests.support.services import DispatcherRig, WatchdogRig, concurrently, register_sender


@pytest.fixture
def dispatcher(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> DispatcherRig:
    """It fills the window at once, although the pace of the campaign is not known."""
    monkeypatch.setattr("services.dispatcher.paces.PATIENCE_SECONDS", 0.0)
    return DispatcherRig.on(ledger, batch_size=100)


@pytest.fixture
def sender(ledger: Ledger) -> FakeSender:
    return FakeSender(ledger)


@pytest.fixture
def rig(ledger: Ledger) -> WatchdogRig:
    return WatchdogRig.on(ledger)


def heartbeat(held: Held, campaign_id: object, *, idle: float = 0.0, age: float = 0.0) -> SenderHeartbeat:
    progress = BatchProgress.model_validate(
        {
            "batch_id": held.id,
            "campaign_id": campaign_id,
            "generation": held.generation,
            "done": 1,
            "in_flight": 1,
            "idle_seconds": idle,
            "age_seconds": age,
        }
    )
    return SenderHeartbeat(
        instance="sender-1@test",
        host="test",
        pid=1,
        slots=2,
        uptime_seconds=700.0,
        emails_done=1,
        emails_per_second=0.5,
        batches=(progress,),
    )


async def hold_one(dispatcher: DispatcherRig, sender: FakeSender) -> Held:
    await dispatcher.settle()
    held = await sender.claim(*(await sender.released())[0])
    assert held is not None
    return held


async def end_leases(ledger: Ledger) -> None:
    """Makes leases expire, as if their owners had died."""
    async with ledger.write() as connection:
        await connection.execute(update(Batch).where(col(Batch.state) == "sending").values(lease_until=db_now() - 0.1))


async def test_a_batch_with_an_expired_lease_is_rescued_and_sent_by_another(
    ledger: Ledger, dispatcher: DispatcherRig, sender: FakeSender, rig: WatchdogRig
) -> None:
    campaign = await add_campaign(ledger, 100)
    held = await hold_one(dispatcher, sender)
    assert await sender.record(held, limit=40) == 40
    await end_leases(ledger)
    await rig.watchdog.look()
    (batch,) = await batches_of(ledger, campaign)
    assert (batch.state, batch.generation, batch.owner, batch.rescues) == ("waiting", held.generation + 1, None, 1)
    assert batch.due_at <= await ledger.now()
    assert rig.bus.events == [
        BatchRequeued(batch_id=batch.id, campaign_id=campaign, generation=batch.generation, reason="lease_expired")
    ]
    assert rig.value("rescues_total", reason="lease_expired") == 1
    assert (await timeline_of(ledger, campaign))[-1] == (
        "rescued",
        f"Batch {batch.id} was taken back from sender-1@test: its lease ran out",
    )
    assert await sender.record(held) == -1, "its former owner has lost it"
    await dispatcher.settle()
    assert await FakeSender(ledger, "sender-2@test").send_all_released() == 60
    await dispatcher.settle()
    await assert_sound(ledger)


async def test_a_batch_that_stops_every_sender_pauses_its_campaign(
    ledger: Ledger, dispatcher: DispatcherRig, sender: FakeSender, rig: WatchdogRig
) -> None:
    """After a resume it gets as many tries again."""
    campaign = await add_campaign(ledger, 20)
    for _ in range(2):
        for _ in range(MOST_FRUITLESS // RESCUE_POINTS):
            held = await hold_one(dispatcher, sender)
            await end_leases(ledger)
            await rig.watchdog.look()
        await dispatcher.settle()
        assert await sender.released() == []
        row = await campaign_row(ledger, campaign)
        assert row.status == "paused"
        assert f"Batch {held.id} was taken back again and again" in row.reason
        assert ("paused", row.reason) in await timeline_of(ledger, campaign)
        async with ledger.write() as connection:
            assert await campaigns.move(connection, campaign, CampaignStatus.QUEUED, reason=None)
        await dispatcher.dispatcher.on_progress(AnyProgress(campaign_id=campaign))
    held = await hold_one(dispatcher, sender)
    assert await sender.record(held) == 20
    await assert_sound(ledger)


async def test_a_batch_that_makes_progress_is_rescued_as_often_as_needed(
    ledger: Ledger, dispatcher: DispatcherRig, sender: FakeSender, rig: WatchdogRig
) -> None:
    campaign = await add_campaign(ledger, 20)
    for status in ("sent", "deferred", "sent", "failed"):
        held = await hold_one(dispatcher, sender)
        assert await sender.record(held, status, limit=1) == 1
        await end_leases(ledger)
        await rig.watchdog.look()
    await hold_one(dispatcher, sender)
    [batch] = await batches_of(ledger, campaign)
    assert (batch.rescues, batch.fruitless) == (4, RESCUE_POINTS)
    await assert_sound(ledger)


async def test_a_sender_that_ends_with_a_batch_each_time_does_not_resume_it_for_ever(
    ledger: Ledger, dispatcher: DispatcherRig, sender: FakeSender
) -> None:
    await add_campaign(ledger, 20)
    held = await hold_one(dispatcher, sender)
    resumed = []
    for _ in range(MOST_FRUITLESS):
        again, given_back = await claims.resume(ledger, sender.owner, 15.0, 10)
        resumed.append(([one.batch_id for one in again], [one.batch_id for one in given_back]))
    assert resumed == [([held.id], [])] * (MOST_FRUITLESS - 1) + [([], [held.id])]
    await dispatcher.settle()
    assert await sender.released() == []


async def test_a_silent_sender_with_a_lease_is_left_alone(
    ledger: Ledger, dispatcher: DispatcherRig, sender: FakeSender, rig: WatchdogRig
) -> None:
    """No heartbeats at all: the broker is away, `heartbeats` is unbound, or the watchdog has just started."""
    campaign = await add_campaign(ledger, 100)
    held = await hold_one(dispatcher, sender)
    await rig.watchdog.look()
    await rig.sweep()
    assert [(batch.state, batch.generation) for batch in await batches_of(ledger, campaign)] == [
        ("sending", held.generation)
    ]
    assert rig.bus.events == []


async def test_two_watchdogs_rescue_once(ledger: Ledger, dispatcher: DispatcherRig, sender: FakeSender) -> None:
    campaign = await add_campaign(ledger, 400)
    await register_sender(ledger, 2)
    await dispatcher.settle()
    for ticket in await sender.released():
        await sender.claim(*ticket)
    await end_leases(ledger)
    rigs = [WatchdogRig.on(ledger) for _ in range(2)]
    await concurrently(*(rig.watchdog.look() for rig in rigs))
    assert [(batch.state, batch.generation) for batch in await batches_of(ledger, campaign)] == [("waiting", 3)] * 4
    assert sum(len(rig.bus.events) for rig in rigs) == 4


async def test_a_batch_that_is_renewed_but_makes_no_progress_is_rescued(
    ledger: Ledger, dispatcher: DispatcherRig, sender: FakeSender, rig: WatchdogRig
) -> None:
    campaign = await add_campaign(ledger, 100)
    held = await hold_one(dispatcher, sender)
    await rig.watchdog.on_heartbeat(heartbeat(held, campaign, idle=599.0, age=599.0))
    await rig.watchdog.look()
    assert rig.bus.events == [], "within its limits"
    await rig.watchdog.on_heartbeat(heartbeat(held, campaign, idle=601.0, age=601.0))
    await rig.watchdog.look()
    assert [event.reason for event in rig.bus.of(BatchRequeued)] == ["stalled"]
    assert await sender.record(held) == -1
    assert "it made no progress for 601 s" in (await timeline_of(ledger, campaign))[-1][1]
    await rig.watchdog.look()
    assert len(rig.bus.events) == 1, "the same heartbeat is judged once"


async def test_a_batch_that_makes_progress_but_is_overdue_is_rescued(
    ledger: Ledger, dispatcher: DispatcherRig, sender: FakeSender, rig: WatchdogRig
) -> None:
    campaign = await add_campaign(ledger, 100)
    held = await hold_one(dispatcher, sender)
    await rig.watchdog.on_heartbeat(heartbeat(held, campaign, idle=1.0, age=620.0))
    await rig.watchdog.look()
    assert rig.bus.events == [], "its sender is about to end it by itself"
    await rig.watchdog.on_heartbeat(heartbeat(held, campaign, idle=1.0, age=640.0))
    await rig.watchdog.look()
    assert rig.value("rescues_total", reason="overdue") == 1


async def test_an_old_heartbeat_harms_no_later_owner(
    ledger: Ledger, dispatcher: DispatcherRig, sender: FakeSender, rig: WatchdogRig
) -> None:
    campaign = await add_campaign(ledger, 100)
    held = await hold_one(dispatcher, sender)
    stale = heartbeat(held, campaign, idle=900.0, age=900.0)
    await end_leases(ledger)
    await rig.watchdog.look()
    again = await hold_one(dispatcher, sender)
    await rig.watchdog.on_heartbeat(stale)
    await rig.watchdog.look()
    assert [(batch.state, batch.generation) for batch in await batches_of(ledger, campaign)] == [
        ("sending", again.generation)
    ]


class TestTickets:
    async def release_long_ago(self, ledger: Ledger, dispatcher: DispatcherRig, seconds: float = 61.0) -> None:
        await dispatcher.settle()
        async with ledger.write() as connection:
            await connection.execute(text(f"UPDATE batch SET released_at = released_at - {seconds}"))

    async def test_a_lost_ticket_is_found_and_the_batch_released_again(
        self, ledger: Ledger, dispatcher: DispatcherRig, sender: FakeSender, rig: WatchdogRig
    ) -> None:
        campaign = await add_campaign(ledger, 100)
        await self.release_long_ago(ledger, dispatcher)
        (lost,) = await sender.released()
        await rig.watchdog.look()
        assert rig.value("rescues_total", reason="ticket_lost") == 1
        await dispatcher.settle()
        assert await sender.claim(*lost) is None, "the old ticket is stale"
        assert await sender.send_all_released() == 100
        await dispatcher.settle()
        await assert_sound(ledger)
        assert [kind for kind, _ in await timeline_of(ledger, campaign)] == ["started", "rescued", "finished"]

    async def test_a_fresh_ticket_is_left_alone(
        self, ledger: Ledger, dispatcher: DispatcherRig, rig: WatchdogRig
    ) -> None:
        await add_campaign(ledger, 100)
        await self.release_long_ago(ledger, dispatcher, 59.0)
        await rig.watchdog.look()
        assert rig.bus.events == []

    async def test_a_batch_waits_while_every_slot_is_busy(
        self, ledger: Ledger, dispatcher: DispatcherRig, sender: FakeSender, rig: WatchdogRig
    ) -> None:
        await add_campaign(ledger, 200)
        await register_sender(ledger, 1)
        await self.release_long_ago(ledger, dispatcher)
        await sender.claim(*(await sender.released())[0])
        await rig.watchdog.look()
        assert rig.bus.events == []
        await register_sender(ledger, 2)
        await rig.watchdog.look()
        assert rig.value("rescues_total", reason="ticket_lost") == 1


class TestHeartbeats:
    async def test_heartbeats_record_live_senders_and_their_slots(
        self, ledger: Ledger, dispatcher: DispatcherRig, sender: FakeSender, rig: WatchdogRig
    ) -> None:
        campaign = await add_campaign(ledger, 100)
        held = await hold_one(dispatcher, sender)
        await rig.watchdog.on_heartbeat(heartbeat(held, campaign, idle=3.0, age=4.0))
        await rig.heartbeats.write(ledger)
        await rig.heartbeats.write(ledger)
        async with ledger.read() as connection:
            assert await instances.live_capacity(connection, lost_seconds=20) == 2
            (row,) = (await connection.execute(select(ServiceInstance.__table__))).all()  # type: ignore[attr-defined]
        assert (row.id, row.service, row.host) == ("sender-1@test", "sender", "test")
        assert '"idle_seconds":3.0' in row.detail
        await rig.metrics.refresh()
        assert rig.value("senders") == 1
        assert rig.value("sender_slots") == 2
        assert rig.value("batch_idle_seconds") == 3.0
        assert 10 < rig.value("lease_left_seconds") <= 15

    async def test_a_heartbeat_that_could_not_be_written_is_written_later(
        self, ledger: Ledger, dispatcher: DispatcherRig, sender: FakeSender, rig: WatchdogRig
    ) -> None:
        campaign = await add_campaign(ledger, 100)
        held = await hold_one(dispatcher, sender)
        await rig.watchdog.on_heartbeat(heartbeat(held, campaign))
        async with ledger.write() as connection:
            await connection.execute(text("ALTER TABLE service_instance RENAME TO away"))
        with pytest.raises(Exception, match="service_instance"):
            await rig.heartbeats.write(ledger)
        async with ledger.write() as connection:
            await connection.execute(text("ALTER TABLE away RENAME TO service_instance"))
        await rig.heartbeats.write(ledger)
        async with ledger.read() as connection:
            assert await instances.live_capacity(connection, lost_seconds=20) == 2


class TestNoSender:
    async def blocked_by(self, ledger: Ledger) -> str | None:
        async with ledger.read() as connection:
            said: str | None = await connection.scalar(select(col(Campaign.blocked_by)))
        return said

    async def test_a_campaign_says_that_no_sender_runs_until_one_is_back(
        self, ledger: Ledger, dispatcher: DispatcherRig, sender: FakeSender, rig: WatchdogRig
    ) -> None:
        campaign = await add_campaign(ledger, 200)
        await dispatcher.settle()
        await rig.watchdog.look()
        assert await self.blocked_by(ledger) is None, "a ticket may take its time"
        async with ledger.write() as connection:
            await connection.execute(text("UPDATE batch SET released_at = released_at - 31"))
        await rig.watchdog.look()
        await rig.watchdog.look()
        assert await self.blocked_by(ledger) == "no sender is running"
        await sender.claim(*(await sender.released())[0])
        await rig.watchdog.look()
        assert await self.blocked_by(ledger) is None
        assert [kind for kind, _ in await timeline_of(ledger, campaign)] == ["started", "blocked", "unblocked"]

    async def test_senders_without_a_relay_are_not_reported_as_away_and_cause_no_rescue(
        self, ledger: Ledger, dispatcher: DispatcherRig, sender: FakeSender, rig: WatchdogRig
    ) -> None:
        campaign = await add_campaign(ledger, 200)
        await dispatcher.settle()
        async with ledger.write() as connection:
            await connection.execute(text("UPDATE batch SET released_at = released_at - 61"))
        alive = SenderHeartbeat(
            instance="s", host="h", pid=1, slots=2, uptime_seconds=9.0, emails_done=0, emails_per_second=0.0
        )
        await rig.watchdog.on_heartbeat(alive.model_copy(update={"blocked": True}))
        await rig.watchdog.look()
        await rig.watchdog.look()
        assert await self.blocked_by(ledger) == "no sender has a relay that can be used"
        assert rig.value("rescues_total", reason="ticket_lost") == 0, "who cannot send claims nothing"
        await rig.watchdog.on_heartbeat(alive)
        await sender.claim(*(await sender.released())[0])
        await rig.watchdog.look()
        assert await self.blocked_by(ledger) is None
        kinds = [kind for kind, _ in await timeline_of(ledger, campaign)]
        assert kinds[:2] == ["started", "blocked"]
        assert kinds[-1] == "unblocked"

    async def test_a_busy_sender_counts_as_a_sender(
        self, ledger: Ledger, dispatcher: DispatcherRig, sender: FakeSender, rig: WatchdogRig
    ) -> None:
        await add_campaign(ledger, 200)
        await dispatcher.settle()
        await sender.claim(*(await sender.released())[0])
        async with ledger.write() as connection:
            await connection.execute(text("UPDATE batch SET released_at = released_at - 31"))
        await rig.watchdog.look()
        assert await self.blocked_by(ledger) is None

    async def test_a_reason_set_by_a_sender_stays(
        self, ledger: Ledger, dispatcher: DispatcherRig, sender: FakeSender, rig: WatchdogRig
    ) -> None:
        await add_campaign(ledger, 200)
        await dispatcher.settle()
        await sender.claim(*(await sender.released())[0])
        async with ledger.write() as connection:
            await connection.execute(update(Campaign).values(blocked_by="relay is down"))
        await rig.watchdog.look()
        assert await self.blocked_by(ledger) == "relay is down"

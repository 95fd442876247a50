"""The full sweep: everything that disagrees in the ledger is found and repaired, and nothing else is touched."""

import json
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import delete, text, update
from sqlmodel import col

from services.watchdog import sweep
from shared.events import BatchRequeued, CampaignRequested
from shared.ledger import bookmarks, instances, repair, timeline
from shared.ledger.database import Ledger
from shared.ledger.models import Batch, Campaign, Recipient
from tests.support.ledger import (
    FakeSender,
    add_campaign,
    assert_sound,
    batches_of,
    campaign_row,
    counts_by_status,
    timeline_of,
)
from tests.support.services import DispatcherRig, WatchdogRig, concurrently


@pytest.fixture
def rig(ledger: Ledger) -> WatchdogRig:
    return WatchdogRig.on(ledger)


@pytest.fixture(autouse=True)
def quick_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "LOOK_AGAIN_SECONDS", 0.01)


async def half_sent(ledger: Ledger, recipients: int = 1000) -> UUID:
    """A campaign of ten batches: five done, the sixth and seventh released."""
    campaign = await add_campaign(ledger, recipients)
    dispatcher, sender = DispatcherRig.on(ledger, batch_size=recipients // 10), FakeSender(ledger)
    await dispatcher.settle()
    while await sender.send_all_released():
        await dispatcher.settle()
        done = [batch for batch in await batches_of(ledger, campaign) if batch.state == "done"]
        if len(done) >= 5:
            break
    return campaign


async def send_the_rest(ledger: Ledger) -> FakeSender:
    dispatcher, sender = DispatcherRig.on(ledger), FakeSender(ledger)
    while await dispatcher.settle() + await sender.send_all_released():
        pass
    return sender


async def test_a_sound_ledger_is_left_as_it_is(ledger: Ledger, rig: WatchdogRig) -> None:
    campaign = await half_sent(ledger)
    before = await batches_of(ledger, campaign)
    await rig.sweep()
    assert await batches_of(ledger, campaign) == before
    assert rig.bus.events == []


async def test_counts_that_disagree_are_corrected(ledger: Ledger, rig: WatchdogRig) -> None:
    campaign = await half_sent(ledger)
    victims = await batches_of(ledger, campaign)
    async with ledger.write() as connection:
        await connection.execute(
            update(Batch).where(col(Batch.id) == victims[1].id).values(sent=Batch.sent - 7, failed=7)
        )
        await connection.execute(update(Batch).where(col(Batch.id) == victims[-1].id).values(pending=0))
    await rig.sweep()
    await assert_sound(ledger)
    after = await batches_of(ledger, campaign)
    assert [(b.state, b.generation) for b in after] == [(b.state, b.generation) for b in victims], "hands unchanged"
    assert rig.value("repairs_total", reason="counts_disagreed") == 2
    assert rig.value("wakeups_total", cause="sweep") == 1


async def test_open_rows_in_a_closed_batch_are_sent(ledger: Ledger, rig: WatchdogRig) -> None:
    campaign = await half_sent(ledger)
    victim = (await batches_of(ledger, campaign))[0]
    async with ledger.write() as connection:
        await connection.execute(
            update(Recipient).where(col(Recipient.id) == victim.first_id + 3).values(status="pending")
        )
    await rig.sweep()
    await assert_sound(ledger)
    again = (await batches_of(ledger, campaign))[0]
    assert (again.state, again.generation, again.pending) == ("waiting", victim.generation + 1, 1)
    assert {event.reason for event in rig.bus.of(BatchRequeued)} == {"counts_disagreed", "open_rows_in_closed_batch"}
    sender = await send_the_rest(ledger)
    assert sender.sent[victim.first_id + 3] == 1
    assert (await campaign_row(ledger, campaign)).status == "finished"


async def test_rows_that_no_batch_covers_get_one(ledger: Ledger, rig: WatchdogRig) -> None:
    """Gaps at the beginning, in the middle and at the end, each too large for one new batch."""
    campaign = await half_sent(ledger, 6000)
    batches = await batches_of(ledger, campaign)
    gone = [batches[0], batches[2], batches[-1]]
    async with ledger.write() as connection:
        await connection.execute(delete(Batch).where(col(Batch.id).in_([batch.id for batch in gone])))
    await rig.sweep()
    await assert_sound(ledger)
    assert rig.value("repairs_total", reason="rows_without_batch") == 6, "600 rows each, in batches of at most 500"
    assert (await counts_by_status(ledger, campaign))["total"] == 6000
    await send_the_rest(ledger)
    counts = await counts_by_status(ledger, campaign)
    assert counts == {"total": 6000, "sent": 6000}
    assert (await campaign_row(ledger, campaign)).status == "finished"


async def test_two_watchdogs_repair_it_once(ledger: Ledger) -> None:
    campaign = await half_sent(ledger)
    batches = await batches_of(ledger, campaign)
    async with ledger.write() as connection:
        await connection.execute(delete(Batch).where(col(Batch.id) == batches[3].id))
        await connection.execute(
            update(Recipient).where(col(Recipient.id) == batches[0].first_id).values(status="deferred")
        )
    rigs = [WatchdogRig.on(ledger) for _ in range(2)]
    await concurrently(*(rig.sweep() for rig in rigs))
    await assert_sound(ledger)
    for reason in ("rows_without_batch", "open_rows_in_closed_batch"):
        assert sum(rig.value("repairs_total", reason=reason) for rig in rigs) == 1


@pytest.mark.parametrize("status", ["finished", "cancelled", "draft", "scheduled"])
async def test_a_campaign_that_is_not_under_way_is_never_touched(ledger: Ledger, rig: WatchdogRig, status: str) -> None:
    campaign = await half_sent(ledger)
    async with ledger.write() as connection:
        await connection.execute(update(Campaign).values(status=status, scheduled_at=4e9, finished_at=1.0))
    before = (await campaign_row(ledger, campaign), await batches_of(ledger, campaign))
    await rig.sweep()
    assert (await campaign_row(ledger, campaign), await batches_of(ledger, campaign)) == before


@pytest.mark.parametrize("status", ["finished", "expired", "scheduled"])
async def test_a_campaign_that_closed_meanwhile_is_counted_but_not_opened_again(ledger: Ledger, status: str) -> None:
    """It was under way when the sweep saw it, but not when the locks were taken."""
    campaign = await half_sent(ledger)
    first, second, *others = await batches_of(ledger, campaign)
    async with ledger.write() as connection:
        await connection.execute(update(Recipient).where(col(Recipient.id) == first.first_id).values(status="pending"))
        await connection.execute(delete(Batch).where(col(Batch.id) == second.id))
        await connection.execute(update(Campaign).values(status=status))
    done = await repair.repair(ledger, campaign)
    assert [mended.reason for mended in done] == ["counts_disagreed"]
    after = await batches_of(ledger, campaign)
    assert (after[0].state, after[0].generation) == ("done", first.generation)
    assert after[1:] == others


async def test_the_dispatcher_is_called_for_campaigns_it_overlooked(ledger: Ledger, rig: WatchdogRig) -> None:
    waiting = {
        "not_started": await add_campaign(ledger, 1),
        "schedule_due": await add_campaign(ledger, 1, status="scheduled", scheduled_at=-1.0),
        "not_closed": await add_campaign(ledger, 0, status="sending"),
        "not_stopped": await add_campaign(ledger, 1, status="stopping", stop_as="cancelled"),
        "not_expired": await add_campaign(ledger, 1, status="paused", deliver_by=-1.0),
    }
    await add_campaign(ledger, 1, status="sending")
    await add_campaign(ledger, 1, status="scheduled", scheduled_at=600.0)
    await add_campaign(ledger, 1, status="draft", deliver_by=None)
    await rig.sweep()
    assert {event.campaign_id for event in rig.bus.of(CampaignRequested)} == set(waiting.values())
    for reason, campaign in waiting.items():
        assert rig.value("repairs_total", reason=reason) == 1
        assert [kind for kind, _ in await timeline_of(ledger, campaign)] == ["called"]
        assert (await campaign_row(ledger, campaign)).status in ("queued", "scheduled", "sending", "stopping", "paused")


async def test_a_campaign_that_moves_is_not_overlooked(
    ledger: Ledger, rig: WatchdogRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "LOOK_AGAIN_SECONDS", 3600.0)
    await add_campaign(ledger, 7000, status="stopping", stop_as="cancelled")
    await rig.watchdog.sweep()
    assert rig.watchdog.sweeping.only_looks_again, "it is a suspect"
    await DispatcherRig.on(ledger, turn_soft_seconds=0.0001).round()
    monkeypatch.setattr(sweep, "LOOK_AGAIN_SECONDS", 0.0)
    await rig.sweep()
    assert rig.bus.of(CampaignRequested) == []


class TestPositions:
    """A pass goes in short ticks, and is continued after a restart."""

    @pytest.fixture(autouse=True)
    def three_batches_a_tick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sweep, "BATCHES_AT_ONCE", 3)

    async def ticks(self, ledger: Ledger, number: int) -> int:
        """As many watchdogs, each killed after one tick; returns the repairs."""
        rigs = [WatchdogRig.on(ledger, sweep_seconds=300) for _ in range(number)]
        for rig in rigs:
            await rig.watchdog.sweep()
        return sum(int(rig.value("repairs_total", reason="counts_disagreed")) for rig in rigs)

    async def break_counts(self, ledger: Ledger, batch_id: int) -> None:
        async with ledger.write() as connection:
            await connection.execute(update(Batch).where(col(Batch.id) == batch_id).values(unknown=1))

    async def test_a_tick_compares_a_few_batches_only(self, ledger: Ledger, rig: WatchdogRig) -> None:
        campaign = await half_sent(ledger)
        found = await batches_of(ledger, campaign)
        await self.break_counts(ledger, found[1].id)
        await self.break_counts(ledger, found[-1].id)
        await rig.watchdog.sweep()
        assert rig.value("repairs_total", reason="counts_disagreed") == 1
        await rig.sweep()
        assert rig.value("repairs_total", reason="counts_disagreed") == 2

    async def test_a_killed_watchdog_is_continued_in_the_middle_of_a_campaign(self, ledger: Ledger) -> None:
        campaign = await half_sent(ledger)
        await self.break_counts(ledger, (await batches_of(ledger, campaign))[-1].id)
        assert await self.ticks(ledger, 1) == 0
        assert await self.ticks(ledger, 3) == 1

    async def test_every_campaign_is_reached_whatever_lies_before_it(self, ledger: Ledger) -> None:
        """Scheduled ones, without rows, with many and with none."""
        for number in range(5):
            await add_campaign(ledger, number, status="scheduled", scheduled_at=600.0)
            await add_campaign(ledger, 0, status="paused")
        await half_sent(ledger, 500)
        last = await half_sent(ledger, 500)
        await self.break_counts(ledger, (await batches_of(ledger, last))[0].id)
        assert await self.ticks(ledger, 30) == 1
        await assert_sound(ledger)

    async def test_it_rests_between_two_passes(self, ledger: Ledger) -> None:
        campaign = await half_sent(ledger, 50)
        rig = WatchdogRig.on(ledger, sweep_seconds=300)
        await rig.sweep()
        await self.break_counts(ledger, (await batches_of(ledger, campaign))[0].id)
        await rig.watchdog.sweep()
        assert rig.watchdog.sweeping.passes == 1
        assert rig.value("repairs_total", reason="counts_disagreed") == 0
        async with ledger.read() as connection:
            assert await bookmarks.read(connection, sweep.BOOKMARK) == {}, "the next pass begins at the first campaign"


async def test_timelines_and_instances_stay_bounded(ledger: Ledger) -> None:
    rig = WatchdogRig.on(ledger, timeline_entries=10)
    campaign = await add_campaign(ledger, 1, status="paused")
    async with ledger.write() as connection:
        for number in range(30):
            await timeline.record(connection, campaign, f"kind {number}", "")
        await instances.seen(connection, instance="old", service="api")
        await instances.seen(connection, instance="new", service="api")
        await connection.execute(text("UPDATE service_instance SET seen_at = seen_at - 4000 WHERE id = 'old'"))
    await rig.sweep()
    kinds = [kind for kind, _ in await timeline_of(ledger, campaign)]
    assert len(kinds) == 10
    assert kinds[0] == "kind 0"
    assert kinds[-1] == "kind 29"
    async with ledger.read() as connection:
        names = await connection.execute(text("SELECT id FROM service_instance"))
        assert list(names.scalars()) == ["new"]


class TestOnce:
    def run(self, url: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "services.watchdog", "--once", *arguments],
            env={"VASHSENDER_DATABASE_URL": url, "VASHSENDER_VAR_DIR": str(folder)},
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    async def test_it_repairs_the_ledger_with_everything_else_down(
        self, ledger: Ledger, database_url: str, tmp_path: Path
    ) -> None:
        campaign = await half_sent(ledger)
        sender = FakeSender(ledger, lease_seconds=-1.0)
        await sender.claim(*(await sender.released())[0])
        async with ledger.write() as connection:
            await connection.execute(delete(Batch).where(col(Batch.id) == (await batches_of(ledger, campaign))[0].id))
        done = self.run(database_url, tmp_path, "--json")
        assert (done.returncode, done.stderr) == (0, "")
        *findings, summary = [json.loads(line) for line in done.stdout.splitlines()]
        assert [(finding["kind"], finding["reason"]) for finding in findings] == [
            ("rescue", "lease_expired"),
            ("repair", "rows_without_batch"),
        ]
        assert {finding["campaign_id"] for finding in findings} == {str(campaign)}
        assert summary == {"summary": {"repair": 1, "rescue": 1}}
        await assert_sound(ledger)
        again = self.run(database_url, tmp_path)
        assert (again.returncode, again.stdout) == (0, "The ledger is sound: nothing to repair.\n")

    async def test_it_reports_a_schema_it_does_not_know(
        self, ledger: Ledger, database_url: str, tmp_path: Path
    ) -> None:
        async with ledger.write() as connection:
            await connection.execute(text("DELETE FROM alembic_version"))
        done = self.run(database_url, tmp_path)
        assert done.returncode == 69
        assert "vashsender db upgrade" in done.stderr

    def test_it_reports_that_the_database_is_away(self, tmp_path: Path) -> None:
        done = self.run("postgresql://nobody@127.0.0.1:1/none", tmp_path)
        assert done.returncode == 69
        assert done.stderr.startswith("watchdog: the database cannot be reached: ")
        assert done.stdout == ""


async def test_a_pass_names_a_bounded_number_of_blocked_campaigns_and_counts_all(
    ledger: Ledger, rig: WatchdogRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "CAMPAIGNS_AT_ONCE", 2)
    monkeypatch.setattr(sweep, "MOST_BLOCKED_NAMED", 3)
    for _ in range(5):
        await add_campaign(ledger, 1, status="sending", blocked_by="no sender is running")
    sweeping = rig.watchdog.sweeping
    for _ in range(2):
        await sweep.full_pass(sweeping)
        assert (len(sweeping.blocked), sweeping.blocked_count) == (3, 5)

"""Whole campaigns: the dispatcher starts, expires, pauses, stops, reopens and closes them."""

import asyncio
from uuid import UUID

import pytest
from sqlalchemy import insert, text, update
from sqlmodel import col
from structlog.testing import capture_logs

from cli.local.postgres import PrivatePostgres
from services.dispatcher import closing
from services.dispatcher.deadline import Deadline
from shared.events import BatchRequeued, CampaignFinished
from shared.ledger import campaigns
from shared.ledger.database import Ledger, db_now
from shared.ledger.models import Batch, Campaign, Import, Recipient
from tests.support.ledger import (
    FakeSender,
    add_campaign,
    assert_sound,
    batches_of,
    campaign_row,
    counts_by_status,
    timeline_of,
)
from tests.support.services import DispatcherRig, concurrently, ledger_at
from tests.support.waiting import until

LIST_SHARE = 0.2


@pytest.fixture
def rig(ledger: Ledger) -> DispatcherRig:
    return DispatcherRig.on(ledger, batch_size=100)


@pytest.fixture
def sender(ledger: Ledger) -> FakeSender:
    return FakeSender(ledger)


async def change(ledger: Ledger, campaign: UUID, **values: object) -> None:
    """Changes a campaign as the API does. `deliver_by` and `scheduled_at` are seconds from now."""
    for key in ("deliver_by", "scheduled_at"):
        if key in values:
            values[key] = db_now() + values[key]
    async with ledger.write() as connection:
        await connection.execute(update(Campaign).where(col(Campaign.id) == campaign).values(**values))


async def mark(ledger: Ledger, campaign: UUID, status: str, number: int, *, batches: str = "done") -> None:
    """Gives the first `number` recipients the status a sender left, in closed batches of 100."""
    async with ledger.write() as connection:
        values = {"campaign": campaign.hex if ledger.is_sqlite else campaign, "status": status, "number": number}
        await connection.execute(
            text(
                "UPDATE recipient SET status = :status, attempts = 4 WHERE id IN (SELECT id FROM recipient WHERE"
                " campaign_id = :campaign ORDER BY id LIMIT :number)"
            ),
            values,
        )
    async with ledger.read() as connection:
        rows = await connection.execute(
            text("SELECT id, status FROM recipient WHERE campaign_id = :campaign ORDER BY id"),
            {"campaign": values["campaign"]},
        )
        ids = [(row[0], row[1]) for row in rows]
    async with ledger.write() as connection:
        for start in range(0, len(ids), 100):
            part = ids[start : start + 100]
            counted = {name: sum(was == name for _, was in part) for name in {was for _, was in part}}
            await connection.execute(
                insert(Batch).values(
                    campaign_id=campaign,
                    first_id=part[0][0],
                    last_id=part[-1][0],
                    size=len(part),
                    state=batches,
                    generation=3,
                    due_at=db_now(),
                    **counted,
                )
            )
        await connection.execute(update(Campaign).where(col(Campaign.id) == campaign).values(cursor=ids[-1][0]))


async def until_somebody_waits_for_a_lock(postgres: PrivatePostgres) -> None:
    await until(lambda: asyncio.to_thread(postgres.query, "SELECT pid FROM pg_locks WHERE NOT granted"))


class TestStart:
    async def test_a_scheduled_campaign_starts_at_its_time(self, ledger: Ledger, rig: DispatcherRig) -> None:
        campaign = await add_campaign(ledger, 10, status="scheduled", scheduled_at=60.0)
        assert await rig.settle() == 0
        await change(ledger, campaign, scheduled_at=0.0)
        assert await rig.settle() == 1
        assert (await campaign_row(ledger, campaign)).status == "sending"
        assert len(await batches_of(ledger, campaign)) == 1, "its first batch leaves in the same round"

    async def test_a_scheduled_campaign_waits_for_an_open_import(self, ledger: Ledger, rig: DispatcherRig) -> None:
        campaign = await add_campaign(ledger, 10, status="scheduled", scheduled_at=-1.0)
        async with ledger.write() as connection:
            await connection.execute(
                insert(Import).values(
                    campaign_id=campaign, format="csv", state="open", created_at=db_now(), updated_at=db_now()
                )
            )
        assert await rig.settle() == 0
        assert (await campaign_row(ledger, campaign)).status == "scheduled"
        async with ledger.write() as connection:
            await connection.execute(update(Import).values(state="done"))
        await rig.settle()
        assert (await campaign_row(ledger, campaign)).status == "sending"

    async def test_two_dispatchers_start_it_once(self, ledger: Ledger) -> None:
        campaign = await add_campaign(ledger, 10)
        await concurrently(*(DispatcherRig.on(ledger).round() for _ in range(2)))
        assert [kind for kind, _ in await timeline_of(ledger, campaign)] == ["started"]
        assert len(await batches_of(ledger, campaign)) == 1


class TestPause:
    async def test_released_batches_are_withdrawn_and_continue_after_resume(
        self, ledger: Ledger, rig: DispatcherRig, sender: FakeSender
    ) -> None:
        campaign = await add_campaign(ledger, 300)
        await rig.settle()
        tickets = await sender.released()
        held = await sender.claim(*tickets[0])
        await change(ledger, campaign, status="paused")
        await rig.settle()
        states = [(batch.state, batch.generation) for batch in await batches_of(ledger, campaign)]
        assert states == [("sending", 2), ("waiting", 2)]
        assert await sender.claim(*tickets[1]) is None
        assert held is not None
        await sender.finish(held)
        assert await rig.settle() == 0, "nothing is released while it is paused"
        await change(ledger, campaign, status="queued")
        while await rig.settle() + await sender.send_all_released():
            pass
        assert await counts_by_status(ledger, campaign) == {"total": 300, "sent": 300}
        kinds = [kind for kind, _ in await timeline_of(ledger, campaign)]
        assert kinds == ["started", "withdrawn", "continued", "finished"]


class TestStopping:
    async def test_a_cancelled_campaign_is_closed_in_short_transactions(
        self, ledger: Ledger, rig: DispatcherRig, sender: FakeSender
    ) -> None:
        campaign = await add_campaign(ledger, 12_345)
        await rig.settle()
        assert await sender.send_all_released() == 200
        await rig.settle()
        await change(ledger, campaign, status="stopping", stop_as="cancelled", reason="a person said so")
        await rig.settle()
        row = await campaign_row(ledger, campaign)
        assert (row.status, row.reason) == ("cancelled", "a person said so")
        assert await counts_by_status(ledger, campaign) == {"total": 12_345, "sent": 200, "cancelled": 12_145}
        assert rig.bus.of(CampaignFinished)[-1].status == "cancelled"
        assert rig.bus.of(BatchRequeued) == [], "the counts moved with the rows: nothing was left to mend"
        await assert_sound(ledger)
        sizes = [batch.size for batch in await batches_of(ledger, campaign)]
        assert sizes[:4] == [100] * 4, "those from before"
        assert sizes[4] == 1000, "what no batch covered, 1,000 in a first step"
        assert max(sizes) <= 5000

    async def test_batches_being_sent_are_left_to_their_senders(
        self, ledger: Ledger, rig: DispatcherRig, sender: FakeSender
    ) -> None:
        campaign = await add_campaign(ledger, 300)
        await rig.settle()
        held = await sender.claim(*(await sender.released())[0])
        assert held is not None
        await change(ledger, campaign, status="stopping", stop_as="cancelled")
        await rig.settle()
        assert (await campaign_row(ledger, campaign)).status == "stopping"
        assert await sender.record(held, limit=7) == 7, "what was in flight is recorded"
        await sender.finish(held)
        await rig.settle()
        assert (await campaign_row(ledger, campaign)).status == "cancelled"
        assert await counts_by_status(ledger, campaign) == {"total": 300, "sent": 7, "cancelled": 293}

    async def test_closing_while_a_batch_is_still_out_does_nothing_and_raises_no_alarm(
        self, ledger: Ledger, rig: DispatcherRig, sender: FakeSender
    ) -> None:
        campaign = await add_campaign(ledger, 300)
        await rig.settle()
        held = await sender.claim(*(await sender.released())[0])
        assert held is not None
        await change(ledger, campaign, status="stopping", stop_as="cancelled")
        with capture_logs() as logs:
            await rig.settle()
            assert await closing.close(ledger, campaign, LIST_SHARE, Deadline(60)) == []
        assert not [entry for entry in logs if entry["log_level"] in ("warning", "error")]
        assert (await campaign_row(ledger, campaign)).status == "stopping"

    async def test_expiry_waits_for_an_import_that_opens_at_that_moment(
        self, postgresql_url: str, postgres: PrivatePostgres
    ) -> None:
        """Opening the import locks the campaign, and the dispatcher waits for that lock. (SQLite has a single writer:
        there one happens entirely before the other.)"""
        async with ledger_at(postgresql_url) as ledger:
            campaign = await add_campaign(ledger, 10, status="scheduled", scheduled_at=60.0, deliver_by=-0.1)
            rig = DispatcherRig.on(ledger)
            async with ledger.write() as connection:
                await campaigns.lock(connection, campaign)
                opened = {"campaign_id": campaign, "format": "csv", "state": "open"}
                await connection.execute(insert(Import).values(**opened, created_at=db_now(), updated_at=db_now()))
                round_ = asyncio.create_task(rig.round())
                await until_somebody_waits_for_a_lock(postgres)
            await round_
            assert (await campaign_row(ledger, campaign)).status == "scheduled"
            async with ledger.write() as connection:
                await connection.execute(update(Import).values(state="done"))
            await rig.settle()
            assert (await campaign_row(ledger, campaign)).status == "expired"

    async def test_open_recipients_expire_after_deliver_by(
        self, ledger: Ledger, rig: DispatcherRig, sender: FakeSender
    ) -> None:
        late = [
            await add_campaign(ledger, 250, status=status, deliver_by=60.0)
            for status in ("queued", "paused", "scheduled")
        ]
        await rig.settle()
        assert await sender.send_all_released() == 200
        for campaign in late:
            await change(ledger, campaign, deliver_by=-0.1)
        await rig.settle()
        for campaign in late:
            row = await campaign_row(ledger, campaign)
            assert row.status == "expired"
            counts = await counts_by_status(ledger, campaign)
            assert counts["expired"] == 250 - counts.get("sent", 0)
            assert row.reason == f"deliver_by passed before {counts['expired']} recipients were reached"
            kinds = [kind for kind, _ in await timeline_of(ledger, campaign)]
            assert kinds[-2:] == ["overdue", "expired"]
        await assert_sound(ledger)

    async def test_an_email_whose_body_may_have_left_is_unknown(self, ledger: Ledger, rig: DispatcherRig) -> None:
        campaign = await add_campaign(ledger, 10, delivery="at_most_once")
        await rig.settle()
        async with ledger.write() as connection:
            await connection.execute(
                update(Recipient).where(col(Recipient.email_key) == "r3@example.com").values(intent_at=db_now())
            )
        await change(ledger, campaign, status="stopping", stop_as="cancelled")
        await rig.settle()
        assert await counts_by_status(ledger, campaign) == {"total": 10, "cancelled": 9, "unknown": 1}

    async def test_a_deferred_batch_does_not_wait_for_its_retry(
        self, ledger: Ledger, rig: DispatcherRig, sender: FakeSender
    ) -> None:
        campaign = await add_campaign(ledger, 10)
        await rig.settle()
        held = await sender.claim(*(await sender.released())[0])
        assert held is not None
        await sender.record(held, "deferred", delay=600)
        await sender.finish(held, due_in=600)
        await change(ledger, campaign, status="stopping", stop_as="cancelled")
        await rig.settle()
        assert (await campaign_row(ledger, campaign)).status == "cancelled"

    async def test_two_dispatchers_stop_it_together(self, ledger: Ledger) -> None:
        campaign = await add_campaign(ledger, 20_000)
        rigs = [DispatcherRig.on(ledger, batch_size=100) for _ in range(2)]
        await rigs[0].settle()
        await change(ledger, campaign, status="stopping", stop_as="cancelled")
        while any(await concurrently(*(rig.round() for rig in rigs))):
            pass
        assert await counts_by_status(ledger, campaign) == {"total": 20_000, "cancelled": 20_000}
        assert sum(len(rig.bus.of(CampaignFinished)) for rig in rigs) == 1
        await assert_sound(ledger)

    async def test_a_job_yields_at_the_soft_deadline_and_keeps_what_is_done(self, ledger: Ledger) -> None:
        campaign = await add_campaign(ledger, 12_000)
        await change(ledger, campaign, status="stopping", stop_as="cancelled")
        rig = DispatcherRig.on(ledger, turn_soft_seconds=0.0001, turn_hard_seconds=60)
        await rig.round()
        assert (await campaign_row(ledger, campaign)).status == "stopping"
        assert [batch.size for batch in await batches_of(ledger, campaign)] == [1000]
        assert (await timeline_of(ledger, campaign))[-1] == (
            "yielded",
            "A job yielded after 0.0001 s; the next one continues",
        )
        await rig.settle()
        assert (await campaign_row(ledger, campaign)).status == "cancelled"

    async def test_a_job_is_abandoned_at_the_hard_deadline_and_the_next_finishes(self, ledger: Ledger) -> None:
        campaign = await add_campaign(ledger, 12_000)
        await change(ledger, campaign, status="stopping", stop_as="cancelled")
        abandoned = DispatcherRig.on(ledger, turn_soft_seconds=0.001, turn_hard_seconds=0.002)
        await abandoned.round()
        assert abandoned.value("turns_abandoned_total") == 1
        assert (await timeline_of(ledger, campaign))[-1][0] == "yielded"
        await assert_sound(ledger)
        await DispatcherRig.on(ledger).settle()
        assert await counts_by_status(ledger, campaign) == {"total": 12_000, "cancelled": 12_000}


class TestReopening:
    async def test_failed_recipients_are_tried_again(
        self, ledger: Ledger, rig: DispatcherRig, sender: FakeSender
    ) -> None:
        campaign = await add_campaign(ledger, 3000)
        await mark(ledger, campaign, "sent", 3000)
        async with ledger.write() as connection:
            await connection.execute(text("UPDATE recipient SET status = 'failed' WHERE id % 100 < 3"))
            await connection.execute(text("UPDATE batch SET sent = 97, failed = 3"))
        await change(ledger, campaign, reopen="failed")
        await rig.settle()
        assert await counts_by_status(ledger, campaign) == {"total": 3000, "sent": 2910, "pending": 90}
        async with ledger.read() as connection:
            spent = await connection.scalar(text("SELECT max(attempts) FROM recipient WHERE status = 'pending'"))
        assert spent == 0, "they have all their attempts again"
        while await sender.send_all_released() + await rig.settle():
            await assert_sound(ledger)
        assert len(sender.sent) == 90
        row = await campaign_row(ledger, campaign)
        assert (row.status, row.reopen) == ("finished", None)
        kinds = dict(await timeline_of(ledger, campaign))
        assert kinds["reopened"] == "90 failed recipients are tried again"

    async def test_nothing_is_released_before_all_are_reopened(self, ledger: Ledger, rig: DispatcherRig) -> None:
        campaign = await add_campaign(ledger, 300)
        await mark(ledger, campaign, "failed", 300)
        await change(ledger, campaign, reopen="failed", status="sending")
        await rig.round()
        assert [batch.state for batch in await batches_of(ledger, campaign)] == ["waiting"] * 3
        await rig.round()
        assert [batch.state for batch in await batches_of(ledger, campaign)].count("released") == 2

    async def test_unknown_is_sent_again_when_a_person_asks(self, ledger: Ledger, rig: DispatcherRig) -> None:
        campaign = await add_campaign(ledger, 200)
        await mark(ledger, campaign, "unknown", 200)
        await change(ledger, campaign, reopen="unknown_resend")
        await rig.settle()
        assert await counts_by_status(ledger, campaign) == {"total": 200, "pending": 200}

    async def test_unknown_counts_as_sent_when_a_person_says_so(self, ledger: Ledger, rig: DispatcherRig) -> None:
        campaign = await add_campaign(ledger, 200)
        await mark(ledger, campaign, "unknown", 200)
        await change(ledger, campaign, reopen="unknown_sent")
        await rig.settle()
        assert await counts_by_status(ledger, campaign) == {"total": 200, "sent": 200}
        assert (await campaign_row(ledger, campaign)).status == "finished"

    async def test_a_batch_that_a_sender_holds_stays_there(
        self, ledger: Ledger, rig: DispatcherRig, sender: FakeSender
    ) -> None:
        campaign = await add_campaign(ledger, 100)
        await rig.settle()
        held = await sender.claim(*(await sender.released())[0])
        assert held is not None
        await sender.record(held, "failed", limit=30)
        await change(ledger, campaign, reopen="failed")
        await rig.settle()
        (batch,) = await batches_of(ledger, campaign)
        assert (batch.state, batch.generation, batch.pending, batch.failed) == ("sending", held.generation, 100, 0)
        await sender.finish(held)
        assert [batch.state for batch in await batches_of(ledger, campaign)] == ["waiting"]

    async def test_a_paused_campaign_is_reopened_and_stays_paused(self, ledger: Ledger, rig: DispatcherRig) -> None:
        campaign = await add_campaign(ledger, 100)
        await mark(ledger, campaign, "failed", 100)
        await change(ledger, campaign, reopen="failed", status="paused")
        await rig.settle()
        row = await campaign_row(ledger, campaign)
        assert (row.status, row.reopen) == ("paused", None)
        assert [batch.state for batch in await batches_of(ledger, campaign)] == ["waiting"]

    async def test_two_dispatchers_reopen_it_once(self, ledger: Ledger) -> None:
        campaign = await add_campaign(ledger, 5000)
        await mark(ledger, campaign, "failed", 5000)
        await change(ledger, campaign, reopen="failed", status="sending")
        await concurrently(*(DispatcherRig.on(ledger).round() for _ in range(2)))
        assert await counts_by_status(ledger, campaign) == {"total": 5000, "pending": 5000}
        await assert_sound(ledger)


class TestClosing:
    async def test_an_empty_campaign_closes(self, ledger: Ledger, rig: DispatcherRig) -> None:
        campaign = await add_campaign(ledger, 0)
        await rig.settle()
        assert (await campaign_row(ledger, campaign)).status == "finished"

    async def test_a_campaign_fails_if_nothing_could_be_sent(self, ledger: Ledger, rig: DispatcherRig) -> None:
        campaign = await add_campaign(ledger, 100)
        await mark(ledger, campaign, "failed", 100)
        async with ledger.write() as connection:
            await connection.execute(text("UPDATE recipient SET smtp_code = 550, enhanced_code = '5.7.1'"))
        await rig.settle()
        row = await campaign_row(ledger, campaign)
        assert (row.status, row.reason) == ("failed", "all 100 failed; most often: 550 5.7.1 policy (100)")
        words = "failed: 0 of 100 sent, 100 failed; most often: 550 5.7.1 policy (100)"
        assert (await timeline_of(ledger, campaign))[-1] == ("failed", words)

    async def test_the_timeline_names_the_most_frequent_refusals(self, ledger: Ledger, rig: DispatcherRig) -> None:
        campaign = await add_campaign(ledger, 100)
        await mark(ledger, campaign, "sent", 100)
        async with ledger.write() as connection:
            await connection.execute(text("UPDATE batch SET sent = 90, failed = 10"))
            first = "WHERE id IN (SELECT id FROM recipient ORDER BY id LIMIT 10)"
            await connection.execute(text(f"UPDATE recipient SET status = 'failed' {first}"))
            failed = "WHERE status = 'failed'"
            await connection.execute(text(f"UPDATE recipient SET smtp_code = 550, enhanced_code = '5.1.1' {failed}"))
            last = f"{failed} AND id IN (SELECT max(id) FROM recipient {failed})"
            await connection.execute(text(f"UPDATE recipient SET smtp_code = NULL, enhanced_code = NULL {last}"))
        await rig.settle()
        row = await campaign_row(ledger, campaign)
        assert (row.status, row.reason) == ("finished", None)
        words = "finished: 90 of 100 sent, 10 failed; most often: 550 5.1.1 no such mailbox (9), without a reply (1)"
        assert (await timeline_of(ledger, campaign))[-1] == ("finished", words)

    async def test_two_dispatchers_close_it_once(self, ledger: Ledger) -> None:
        campaign = await add_campaign(ledger, 1000)
        await mark(ledger, campaign, "sent", 1000)
        rigs = [DispatcherRig.on(ledger) for _ in range(2)]
        for _ in range(2):
            await concurrently(*(rig.round() for rig in rigs))
        assert sum(len(rig.bus.of(CampaignFinished)) for rig in rigs) == 1
        assert [kind for kind, _ in await timeline_of(ledger, campaign)] == ["started", "finished"]

    async def test_open_rows_in_a_closed_batch_are_found_by_the_proof(
        self, ledger: Ledger, rig: DispatcherRig, sender: FakeSender
    ) -> None:
        """The counts say that all are sent, but the rows disagree."""
        campaign = await add_campaign(ledger, 300)
        await mark(ledger, campaign, "sent", 300)
        async with ledger.write() as connection:
            await connection.execute(
                update(Recipient).where(col(Recipient.email_key) == "r150@example.com").values(status="pending")
            )
        assert await rig.settle()
        assert (await campaign_row(ledger, campaign)).status == "sending"
        assert await sender.send_all_released() == 1
        await rig.settle()
        assert (await campaign_row(ledger, campaign)).status == "finished"
        assert rig.value("repairs_total", reason="counts_disagreed") == 1
        assert rig.value("repairs_total", reason="open_rows_in_closed_batch") == 1
        assert {event.reason for event in rig.bus.of(BatchRequeued)} == {
            "counts_disagreed",
            "open_rows_in_closed_batch",
        }

    async def test_a_campaign_with_a_request_to_reopen_never_closes(self, ledger: Ledger) -> None:
        campaign = await add_campaign(ledger, 100, status="sending")
        await mark(ledger, campaign, "sent", 100)
        await change(ledger, campaign, reopen="failed")
        assert await closing.close(ledger, campaign, LIST_SHARE, Deadline(60)) == []
        assert (await campaign_row(ledger, campaign)).status == "sending"

"""The six invariants of docs/architecture.md, each with tests that fail if its rule is removed."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any
from uuid import UUID

import pytest
import structlog
from sqlalchemy import select, text, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import col

from services.dispatcher import closing
from services.dispatcher.deadline import Deadline
from services.dispatcher.proof import Proof, prove
from services.sender.db import claims
from services.sender.db.record import Group, record
from services.sender.results import Result
from shared.events import CampaignFinished
from shared.ledger import campaigns
from shared.ledger.batches import create, cut, requeue
from shared.ledger.database import Ledger, db_now
from shared.ledger.models import DEFAULT_PROJECT, Batch, Campaign, Recipient
from shared.ledger.repair import Repair
from shared.ledger.states import BatchState
from tests.support.ledger import FakeSender, add_campaign, assert_sound, batches_of, campaign_row, counts_by_status
from tests.support.services import DispatcherRig, WatchdogRig, concurrently

LEASE = 15.0
LIST_SHARE = 0.2


@pytest.fixture
def dispatcher(ledger: Ledger) -> DispatcherRig:
    return DispatcherRig.on(ledger, batch_size=100)


@pytest.fixture
def sender(ledger: Ledger) -> FakeSender:
    return FakeSender(ledger)


async def change(ledger: Ledger, model: type[Any], row_id: object, **values: object) -> None:
    async with ledger.write() as connection:
        await connection.execute(update(model).where(col(model.id) == row_id).values(**values))


async def claim_first(ledger: Ledger, sender: FakeSender) -> claims.Claim:
    """Claims the first released batch with the sender's own statement."""
    batch_id, generation = (await sender.released())[0]
    claim = await claims.claim(ledger, batch_id, generation, "sender-9@test", LEASE)
    assert claim is not None
    return claim


def group(claim: claims.Claim, *results: Result) -> Group:
    return Group(claim.batch_id, claim.generation, claim.campaign_id, DEFAULT_PROJECT, list(results))


def accepted(recipient_id: int, **values: Any) -> Result:
    """A relay answered 250."""
    result = Result(recipient_id, "r@example.com", "pending", 0, "sent", 1, code=250, relay="a", queue_id="q1")
    return result._replace(**values)


class TestCountsAddUp:
    """1. The counts by state always add up to the total."""

    async def test_at_every_step_of_a_whole_life(
        self, ledger: Ledger, dispatcher: DispatcherRig, sender: FakeSender
    ) -> None:
        campaign = await add_campaign(ledger, 730)
        await assert_sound(ledger)
        for _ in range(3):
            await dispatcher.settle()
            await assert_sound(ledger)
            for ticket in await sender.released():
                held = await sender.claim(*ticket)
                assert held is not None
                for status, limit in (("failed", 5), ("deferred", 7), ("unknown", 3), ("sent", 20)):
                    await sender.record(held, status, limit=limit, delay=600.0)
                    await assert_sound(ledger)
                await sender.finish(held)
        await change(ledger, Campaign, campaign, reopen="failed")
        await dispatcher.settle()
        await assert_sound(ledger)
        await change(ledger, Campaign, campaign, status="stopping", stop_as="cancelled")
        await dispatcher.settle()
        await assert_sound(ledger)
        assert (await campaign_row(ledger, campaign)).status == "cancelled"

    async def test_a_cancelled_batch_counts_the_rows_that_really_changed(
        self, ledger: Ledger, dispatcher: DispatcherRig, sender: FakeSender
    ) -> None:
        campaign = await add_campaign(ledger, 100)
        await dispatcher.settle()
        held = await sender.claim(*(await sender.released())[0])
        assert held is not None
        await sender.record(held, limit=33)
        await sender.finish(held)
        await change(ledger, Campaign, campaign, status="stopping", stop_as="cancelled")
        await dispatcher.settle()
        assert await counts_by_status(ledger, campaign) == {"total": 100, "sent": 33, "cancelled": 67}


class TestClosing:
    """2. A campaign closes only when the cursor is at the end, every batch is closed and no recipient is open."""

    @pytest.fixture
    async def sent(self, ledger: Ledger, dispatcher: DispatcherRig, sender: FakeSender) -> UUID:
        """All recipients are sent, and the dispatcher has not looked yet."""
        campaign = await add_campaign(ledger, 200)
        await dispatcher.settle()
        await sender.send_all_released()
        return campaign

    async def refuses(self, ledger: Ledger, campaign: UUID) -> None:
        assert not isinstance(await closing.close(ledger, campaign, LIST_SHARE, Deadline(60)), CampaignFinished)
        assert (await campaign_row(ledger, campaign)).status == "sending"

    async def test_it_closes_with_all_of_them(self, ledger: Ledger, sent: UUID) -> None:
        assert await closing.close(ledger, sent, LIST_SHARE, Deadline(60)) == CampaignFinished(
            campaign_id=sent, status="finished"
        )

    async def test_not_before_the_cursor_is_at_the_end(self, ledger: Ledger, sent: UUID) -> None:
        """The row beyond the cursor is closed already, so only the cursor shows that it is left."""
        async with ledger.write() as connection:
            await connection.execute(
                text("INSERT INTO recipient (campaign_id, email, email_key, status) VALUES (:c, 'x', 'x', 'sent')"),
                {"c": sent.hex if ledger.is_sqlite else sent},
            )
            await connection.execute(text("UPDATE campaign SET total = total + 1"))
            await connection.execute(text("UPDATE batch SET sent = sent + 1, pending = pending - 1 WHERE id = 1"))
        await self.refuses(ledger, sent)

    @pytest.mark.parametrize("state", ["waiting", "released", "sending"])
    async def test_not_while_a_batch_is_live(self, ledger: Ledger, sent: UUID, state: str) -> None:
        """Even if nothing in it is open: its sender may still have results to record."""
        (first, *_) = await batches_of(ledger, sent)
        await change(ledger, Batch, first.id, state=state)
        await self.refuses(ledger, sent)

    async def test_not_while_a_recipient_is_open(self, ledger: Ledger, sent: UUID) -> None:
        """Even if every count says otherwise: the recipients themselves are counted."""
        (first, *_) = await batches_of(ledger, sent)
        await change(ledger, Recipient, first.first_id, status="deferred")
        await self.refuses(ledger, sent)
        assert (await batches_of(ledger, sent))[0].state == "waiting", "and what was open is sent again"

    async def test_not_while_failed_recipients_are_to_be_tried_again(self, ledger: Ledger, sent: UUID) -> None:
        await change(ledger, Campaign, sent, reopen="failed")
        await self.refuses(ledger, sent)

    @pytest.mark.parametrize("status", ["paused", "queued", "draft", "finished"])
    async def test_only_from_sending_or_stopping(self, ledger: Ledger, sent: UUID, status: str) -> None:
        await change(ledger, Campaign, sent, status=status)
        assert await closing.close(ledger, sent, LIST_SHARE, Deadline(60)) == []
        assert (await campaign_row(ledger, sent)).status == status


class TestGenerations:
    """3. Every change of owner raises the generation; an owner that finds another one has lost the batch."""

    async def generations(self, ledger: Ledger, campaign: UUID) -> tuple[str, int]:
        (batch,) = await batches_of(ledger, campaign)
        return batch.state, batch.generation

    async def test_every_change_of_owner_raises_it(
        self, ledger: Ledger, dispatcher: DispatcherRig, sender: FakeSender
    ) -> None:
        campaign = await add_campaign(ledger, 10)
        seen: list[tuple[str, int]] = []

        async def note() -> None:
            seen.append(await self.generations(ledger, campaign))

        async def step(work: Awaitable[object]) -> None:
            await work
            await note()

        async def give_back(claim: claims.Claim) -> None:
            await claims.let_go(ledger, claim)

        await step(dispatcher.settle())  # released
        claim = await claim_first(ledger, sender)  # claimed
        await note()
        await step(give_back(claim))  # given back
        await step(dispatcher.settle())  # released again
        await change(ledger, Campaign, campaign, status="paused")
        await step(dispatcher.settle())  # withdrawn by a pause
        await change(ledger, Campaign, campaign, status="queued")
        await step(dispatcher.settle())  # and released after it
        await claim_first(ledger, sender)
        await note()
        await change(ledger, Batch, claim.batch_id, lease_until=0.0)
        await step(WatchdogRig.on(ledger).watchdog.look())  # rescued
        await step(dispatcher.settle())
        claim = await claim_first(ledger, sender)
        await record(ledger, [group(claim, *(accepted(number + 1, status="failed") for number in range(10)))], LEASE)
        await note()
        await step(give_back(claim))  # done
        await change(ledger, Campaign, campaign, reopen="failed")
        await step(dispatcher.round())  # reopened
        await change(ledger, Campaign, campaign, status="stopping", stop_as="cancelled", reopen=None)
        await step(dispatcher.settle())  # cancelled
        assert seen == [
            ("released", 1),
            ("sending", 2),
            ("waiting", 3),
            ("released", 4),
            ("waiting", 5),
            ("released", 6),
            ("sending", 7),
            ("waiting", 8),
            ("released", 9),
            ("sending", 10),
            ("done", 11),
            ("waiting", 12),
            ("cancelled", 13),
        ]

    async def lose(self, ledger: Ledger, claim: claims.Claim) -> None:
        await change(ledger, Batch, claim.batch_id, lease_until=0.0)
        await WatchdogRig.on(ledger).watchdog.look()

    async def test_an_owner_that_has_lost_it_neither_renews_nor_records_nor_finishes(
        self, ledger: Ledger, dispatcher: DispatcherRig, sender: FakeSender
    ) -> None:
        campaign = await add_campaign(ledger, 10)
        await dispatcher.settle()
        claim = await claim_first(ledger, sender)
        await self.lose(ledger, claim)
        before = await batches_of(ledger, campaign)
        assert not await claims.renew(ledger, claim.batch_id, claim.generation, LEASE)
        late = accepted(claim.first_id, status="deferred", delay_seconds=60.0)
        assert (await record(ledger, [group(claim, late)], LEASE))[claim.batch_id].lost
        left = await claims.let_go(ledger, claim)
        assert left.state == "lost"
        assert await batches_of(ledger, campaign) == before
        assert await counts_by_status(ledger, campaign) == {"total": 10, "pending": 10}

    async def test_a_ticket_delivered_twice_late_or_after_a_rescue_does_nothing(
        self, ledger: Ledger, dispatcher: DispatcherRig, sender: FakeSender
    ) -> None:
        await add_campaign(ledger, 10)
        await dispatcher.settle()
        (ticket,) = await sender.released()
        claim = await claims.claim(ledger, *ticket, "sender-9@test", LEASE)
        assert claim is not None
        assert await claims.claim(ledger, *ticket, "sender-8@test", LEASE) is None, "twice"
        await self.lose(ledger, claim)
        assert await claims.claim(ledger, *ticket, "sender-8@test", LEASE) is None, "after a rescue"
        await dispatcher.settle()
        assert await claims.claim(ledger, *ticket, "sender-8@test", LEASE) is None, "late"


class TestReceived250s:
    """4. A received 250 is recorded whatever happened meanwhile; counts come from the rows really changed."""

    async def test_after_rescue_and_cancel(self, ledger: Ledger, dispatcher: DispatcherRig, sender: FakeSender) -> None:
        campaign = await add_campaign(ledger, 10)
        await dispatcher.settle()
        claim = await claim_first(ledger, sender)
        await change(ledger, Batch, claim.batch_id, lease_until=0.0)
        await WatchdogRig.on(ledger).watchdog.look()
        await record(ledger, [group(claim, accepted(claim.first_id))], LEASE)
        assert await counts_by_status(ledger, campaign) == {"total": 10, "sent": 1, "pending": 9}
        await change(ledger, Campaign, campaign, status="stopping", stop_as="expired")
        await dispatcher.settle()
        assert (await campaign_row(ledger, campaign)).status == "expired"
        await record(ledger, [group(claim, accepted(claim.first_id + 1))], LEASE)
        assert await counts_by_status(ledger, campaign) == {"total": 10, "sent": 2, "expired": 8}
        await assert_sound(ledger)

    async def test_a_row_that_is_sent_stays_and_counts_as_a_known_duplicate(
        self, ledger: Ledger, dispatcher: DispatcherRig, sender: FakeSender
    ) -> None:
        campaign = await add_campaign(ledger, 10)
        await dispatcher.settle()
        claim = await claim_first(ledger, sender)
        first = accepted(claim.first_id)
        for repeated, duplicates in ((first, 0), (first, 0), (first._replace(queue_id="q2"), 1)):
            done = await record(ledger, [group(claim, repeated)], LEASE)
            assert done[claim.batch_id].known_duplicates == duplicates
        assert await counts_by_status(ledger, campaign) == {"total": 10, "sent": 1, "pending": 9}
        async with ledger.read() as connection:
            row = (
                await connection.execute(
                    select(col(Recipient.queue_id), col(Recipient.attempts)).where(col(Recipient.id) == claim.first_id)
                )
            ).one()
        assert tuple(row) == ("q1", 1)


class TestNothingIsForgotten:
    """5. What no one works on is found and released again automatically."""

    async def spoil_nothing(self, _ledger: Ledger, _sender: FakeSender) -> None:
        """Loses a ticket: nothing handles it."""

    async def kill_a_sender(self, ledger: Ledger, sender: FakeSender) -> None:
        for ticket in await sender.released():
            await sender.claim(*ticket)

    async def lose_a_batch(self, ledger: Ledger, _sender: FakeSender) -> None:
        async with ledger.write() as connection:
            await connection.execute(text("DELETE FROM batch WHERE id = 1"))

    async def close_a_batch_too_early(self, ledger: Ledger, _sender: FakeSender) -> None:
        async with ledger.write() as connection:
            await connection.execute(text("UPDATE batch SET state = 'done'"))

    @pytest.mark.parametrize("spoil", [spoil_nothing, kill_a_sender, lose_a_batch, close_a_batch_too_early])
    async def test_whatever_is_lost(
        self,
        ledger: Ledger,
        dispatcher: DispatcherRig,
        sender: FakeSender,
        spoil: Callable[[Any, Ledger, FakeSender], Awaitable[None]],
    ) -> None:
        campaign = await add_campaign(ledger, 350)
        await dispatcher.settle()
        await spoil(self, ledger, sender)
        lost = await sender.released()
        async with ledger.write() as connection:  # all limits of patience and all leases end
            await connection.execute(
                text("UPDATE batch SET released_at = 1 WHERE state = 'released'"),
            )
            await connection.execute(text("UPDATE batch SET lease_until = 1 WHERE state = 'sending'"))
        watchdog = WatchdogRig.on(ledger)
        await watchdog.watchdog.look()
        await watchdog.sweep()
        for ticket in lost:
            assert await sender.claim(*ticket) is None
        while await dispatcher.settle() + await sender.send_all_released():
            pass
        assert await counts_by_status(ledger, campaign) == {"total": 350, "sent": 350}
        assert set(sender.sent.values()) == {1}
        assert (await campaign_row(ledger, campaign)).status == "finished"


class TestLocks:
    """6. Close, repair and reopening lock the campaign first; cursor and new batches move in one transaction."""

    async def test_what_becomes_live_between_proof_and_close_keeps_it_open(
        self, ledger: Ledger, dispatcher: DispatcherRig, sender: FakeSender, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        campaign = await add_campaign(ledger, 100)
        await dispatcher.settle()
        await sender.send_all_released()

        async def and_meanwhile(ledger: Ledger, campaign_id: UUID, deadline: Deadline) -> Proof | Sequence[Repair]:
            """After the proof, as retry-failed or a repair would."""
            result = await prove(ledger, campaign_id, deadline)
            async with ledger.write() as other:
                await campaigns.lock(other, campaign_id)
                await requeue(other, col(Batch.campaign_id) == campaign_id)
            return result

        monkeypatch.setattr("services.dispatcher.closing.prove", and_meanwhile)
        assert await closing.close(ledger, campaign, LIST_SHARE, Deadline(60)) == []
        assert (await campaign_row(ledger, campaign)).status == "sending"

    async def test_the_cursor_moves_only_with_its_batches(self, ledger: Ledger) -> None:
        """The second of two batches cannot be added: neither is there, and the cursor has not moved."""
        campaign = await add_campaign(ledger, 300, status="sending")
        async with ledger.write() as connection:
            second = await campaigns.next_range(connection, campaign, 100, 100)
            assert second is not None
            await create(connection, campaign, second, BatchState.CANCELLED)
        with pytest.raises(IntegrityError):
            await ledger.write_at_once(partial(cut, campaign_id=campaign, after=0, batches=2, emails=100, rate=None))
        assert (await campaign_row(ledger, campaign)).cursor == 0
        assert [batch.state for batch in await batches_of(ledger, campaign)] == ["cancelled"]

    async def test_of_several_that_cut_at_the_same_time_one_does(self, ledger: Ledger) -> None:
        campaign = await add_campaign(ledger, 300, status="sending")
        cuts = [partial(cut, campaign_id=campaign, after=0, batches=2, emails=100, rate=None) for _ in range(4)]
        done = await concurrently(*map(ledger.write_at_once, cuts))
        assert sorted(len(one) for one in done) == [0, 0, 0, 2]
        assert [batch.size for batch in await batches_of(ledger, campaign)] == [100, 100]
        assert (await campaign_row(ledger, campaign)).cursor == 200
        await assert_sound(ledger)

    async def test_nothing_is_cut_from_a_cursor_that_has_moved(self, ledger: Ledger) -> None:
        """Two dispatchers saw the same cursor; the slower one finds that it has moved."""
        campaign = await add_campaign(ledger, 300)
        slow, fast = (DispatcherRig.on(ledger, batch_size=100, window_floor=1) for _ in range(2))
        release = slow.dispatcher._release

        async def overtaken(seen: Any) -> bool:
            await fast.settle()
            await FakeSender(ledger).send_all_released()
            return await release(seen)

        slow.dispatcher._release = overtaken  # type: ignore[method-assign]
        with structlog.testing.capture_logs() as logs:
            await slow.round()
        assert not [entry for entry in logs if entry["log_level"] == "error"], "it finds out before it writes"
        await assert_sound(ledger)
        assert len(await batches_of(ledger, campaign)) == 1

    async def test_nothing_is_cut_from_a_campaign_that_was_paused_meanwhile(
        self, ledger: Ledger, dispatcher: DispatcherRig
    ) -> None:
        campaign = await add_campaign(ledger, 300)
        release = dispatcher.dispatcher._release

        async def paused_meanwhile(seen: Any) -> bool:
            await change(ledger, Campaign, campaign, status="paused")
            return await release(seen)

        dispatcher.dispatcher._release = paused_meanwhile  # type: ignore[method-assign]
        await dispatcher.round()
        assert await batches_of(ledger, campaign) == []

    async def test_deliver_by_is_compared_by_the_databases_clock(
        self, ledger: Ledger, dispatcher: DispatcherRig, sender: FakeSender
    ) -> None:
        campaign = await add_campaign(ledger, 10)
        await dispatcher.settle()
        async with ledger.write() as connection:
            await connection.execute(update(Campaign).values(deliver_by=db_now()))
        batch_id, generation = (await sender.released())[0]
        assert await claims.claim(ledger, batch_id, generation, "sender-9@test", LEASE) is None
        await dispatcher.settle()
        assert (await campaign_row(ledger, campaign)).status == "expired"

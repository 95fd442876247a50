"""Moves: a status changes only along the tables of states.py, in one conditional statement."""

from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select, update
from sqlmodel import col

from services.sender.results import Result
from shared.ledger import batches, campaigns, rate_limits, recipients, rows
from shared.ledger.campaigns import Range
from shared.ledger.database import Ledger
from shared.ledger.models import Batch, Campaign, RateLimit, Recipient
from shared.ledger.states import (
    BATCH_TRANSITIONS,
    CAMPAIGN_TRANSITIONS,
    OPEN,
    RECIPIENT_TRANSITIONS,
    BatchState,
    CampaignStatus,
    RecipientStatus,
)
from tests.support.ledger import add_campaign, batches_of, campaign_row


async def set_column(ledger: Ledger, model: type[Any], row_id: object, **values: object) -> None:
    """Sets columns without any guard."""
    async with ledger.write() as connection:
        await connection.execute(update(model).where(col(model.id) == row_id).values(**values))


async def add_batch(ledger: Ledger, campaign_id: UUID, state: BatchState = BatchState.WAITING) -> int:
    async with ledger.write() as connection:
        cut = await campaigns.next_range(connection, campaign_id, 0, 100)
        assert cut is not None
        return await batches.create(connection, campaign_id, cut, state, pending=cut.size)


async def statuses(ledger: Ledger, campaign_id: UUID) -> list[str]:
    async with ledger.read() as connection:
        found = await connection.execute(
            select(col(Recipient.status)).where(col(Recipient.campaign_id) == campaign_id).order_by(col(Recipient.id))
        )
        return list(found.scalars())


async def recipient_ids(ledger: Ledger, campaign_id: UUID) -> list[int]:
    async with ledger.read() as connection:
        found = await connection.execute(
            select(col(Recipient.id)).where(col(Recipient.campaign_id) == campaign_id).order_by(col(Recipient.id))
        )
        return list(found.scalars())


class TestCampaigns:
    @pytest.mark.parametrize("to", list(CampaignStatus))
    async def test_a_campaign_moves_only_from_where_the_table_allows(self, ledger: Ledger, to: CampaignStatus) -> None:
        campaign = await add_campaign(ledger, 0)
        for source in CampaignStatus:
            allowed = to in CAMPAIGN_TRANSITIONS[source]
            await set_column(ledger, Campaign, campaign, status=source.value, reason="before")
            async with ledger.write() as connection:
                if any(to in targets for targets in CAMPAIGN_TRANSITIONS.values()):
                    assert await campaigns.move(connection, campaign, to, reason="after") is allowed
            row = await campaign_row(ledger, campaign)
            assert (row.status, row.reason) == ((to.value, "after") if allowed else (source.value, "before"))

    async def test_a_narrower_source_holds(self, ledger: Ledger) -> None:
        campaign = await add_campaign(ledger, 0, status="queued")
        async with ledger.write() as connection:
            sending = (CampaignStatus.SENDING,)
            assert not await campaigns.move(connection, campaign, CampaignStatus.PAUSED, from_=sending)
            assert await campaigns.move(connection, campaign, CampaignStatus.PAUSED)

    async def test_a_move_that_is_never_possible_is_an_error(self, ledger: Ledger) -> None:
        async with ledger.write() as connection:
            with pytest.raises(ValueError, match="no campaign moves to cancelled"):
                await campaigns.move(connection, uuid4(), CampaignStatus.CANCELLED, from_=(CampaignStatus.SENDING,))
            with pytest.raises(ValueError, match="no campaign starts as finished"):
                await campaigns.create(connection, CampaignStatus.FINISHED)

    async def test_a_lock_returns_the_row_or_none(self, ledger: Ledger) -> None:
        campaign = await add_campaign(ledger, 0, status="sending", cursor=7)
        async with ledger.write() as connection:
            assert await campaigns.lock(connection, campaign) == campaigns.Locked("sending", 7, None, None)
            assert await campaigns.lock(connection, campaign, col(Campaign.cursor) == 8) is None
            assert await campaigns.lock(connection, uuid4()) is None


class TestBatches:
    @pytest.mark.parametrize("to", list(BatchState))
    async def test_a_batch_moves_only_from_where_the_table_allows(self, ledger: Ledger, to: BatchState) -> None:
        campaign = await add_campaign(ledger, 10)
        batch = await add_batch(ledger, campaign)
        for source in BatchState:
            allowed = to in BATCH_TRANSITIONS[source]
            await set_column(ledger, Batch, batch, state=source.value, generation=5)
            async with ledger.write() as connection:
                moved = await batches.move(connection, to, col(Batch.id) == batch)
            assert [tuple(row) for row in moved] == ([(batch, campaign, 6)] if allowed else [])
            (row,) = await batches_of(ledger, campaign)
            assert (row.state, row.generation) == ((to.value, 6) if allowed else (source.value, 5))

    async def test_release_finish_and_cancel_need_the_right_generation_and_state(self, ledger: Ledger) -> None:
        campaign = await add_campaign(ledger, 10)
        batch = await add_batch(ledger, campaign)
        async with ledger.write() as connection:
            assert not await batches.release(connection, batch, 2, due_at=0.0, span_seconds=None)
            assert await batches.release(connection, batch, 1, due_at=0.0, span_seconds=None)
            assert not await batches.finish(connection, batch, 2)  # no sender has claimed it
            assert await batches.move(connection, BatchState.SENDING, col(Batch.id) == batch, owner="me")
            assert await batches.cancel(connection, batch) is None  # its owner gives it back
            assert not await batches.finish(connection, batch, 2)
            assert not await batches.finish(connection, batch, 3)  # its recipients are open
            await connection.execute(update(Batch).where(col(Batch.id) == batch).values(pending=0, sent=10))
            assert await batches.finish(connection, batch, 3)
        (row,) = await batches_of(ledger, campaign)
        assert (row.state, row.generation, row.owner) == ("done", 4, None)

    async def test_cancel_returns_the_range_to_close(self, ledger: Ledger) -> None:
        campaign = await add_campaign(ledger, 10)
        batch = await add_batch(ledger, campaign)
        ids = await recipient_ids(ledger, campaign)
        async with ledger.write() as connection:
            assert await batches.cancel(connection, batch) == Range(ids[0], ids[-1], 10)

    async def test_a_lock_is_only_for_the_generation_given(self, ledger: Ledger) -> None:
        batch = await add_batch(ledger, await add_campaign(ledger, 10))
        async with ledger.write() as connection:
            assert await batches.lock(connection, batch, 2) is None
            locked = await batches.lock(connection, batch, 1)
            assert locked is not None
            assert (locked.state, locked.pending, locked.deferred) == ("waiting", 10, 0)

    async def test_no_batch_starts_as_done(self, ledger: Ledger) -> None:
        campaign = await add_campaign(ledger, 10)
        with pytest.raises(ValueError, match="no batch starts as done"):
            await add_batch(ledger, campaign, BatchState.DONE)


class TestRecipients:
    @pytest.mark.parametrize("to", list(RecipientStatus))
    async def test_a_result_is_recorded_only_where_the_table_allows(self, ledger: Ledger, to: RecipientStatus) -> None:
        campaign = await add_campaign(ledger, 1)
        (recipient,) = await recipient_ids(ledger, campaign)
        for source in RecipientStatus:
            await set_column(ledger, Recipient, recipient, status=source.value, attempts=0)
            change = Result(recipient, "r1@example.com", source.value, 0, to.value, 1)
            async with ledger.write() as connection:
                if to in RECIPIENT_TRANSITIONS[source]:
                    assert await recipients.record(connection, [change], ()) == 1
                    assert await recipients.record(connection, [change], ()) == 0  # it has one attempt more now
                else:
                    with pytest.raises(ValueError, match="a recipient does not move"):
                        await recipients.record(connection, [change], ())

    async def test_closing_keeps_closed_recipients_and_makes_those_with_an_intent_unknown(self, ledger: Ledger) -> None:
        campaign = await add_campaign(ledger, 5)
        first, *_, fourth, last = await recipient_ids(ledger, campaign)
        await set_column(ledger, Recipient, first, status="sent")
        await set_column(ledger, Recipient, fourth, status="deferred", intent_at=1.0)
        async with ledger.write() as connection:
            expired = RecipientStatus.EXPIRED
            assert await recipients.close_open(connection, campaign, first, last - 1, expired) == 3
        assert await statuses(ledger, campaign) == ["sent", "expired", "expired", "unknown", "pending"]

    @pytest.mark.parametrize("to", [status for status in RecipientStatus if status in OPEN])
    async def test_nothing_is_closed_as_open(self, ledger: Ledger, to: RecipientStatus) -> None:
        campaign = await add_campaign(ledger, 1)
        async with ledger.write() as connection:
            with pytest.raises(ValueError, match="a recipient does not"):
                await recipients.close_open(connection, campaign, 0, 2**40, to)

    async def test_reopening_changes_only_recipients_of_the_source_status(self, ledger: Ledger) -> None:
        campaign = await add_campaign(ledger, 3)
        first, second, _ = await recipient_ids(ledger, campaign)
        await set_column(ledger, Recipient, first, status="failed", attempts=4)
        await set_column(ledger, Recipient, second, status="sent")
        everything = (campaign, 0, 2**40)
        failed, pending, sent = RecipientStatus.FAILED, RecipientStatus.PENDING, RecipientStatus.SENT
        async with ledger.write() as connection:
            with pytest.raises(ValueError, match="from sent to pending"):
                await recipients.reopen(connection, *everything, sent, pending)
            assert await recipients.reopen(connection, *everything, failed, pending) == 1
        assert await statuses(ledger, campaign) == ["pending", "sent", "pending"]


class TestRows:
    async def test_an_existing_row_is_not_inserted_again(self, ledger: Ledger) -> None:
        async with ledger.write() as connection:
            for rate in (5.0, 6.0):
                await rate_limits.add_missing(connection, "project:1", rate)
            missing = rows.insert_missing(connection, RateLimit)
            added = [{"scope": f"project:{n}", "emails_per_second": 1.0, "free_at": 0.0} for n in (1, 2)]
            await connection.execute(missing, added)
            found = await connection.execute(
                select(col(RateLimit.scope), col(RateLimit.emails_per_second)).order_by(col(RateLimit.scope))
            )
            assert [tuple(row) for row in found] == [("project:1", 5.0), ("project:2", 1.0)]

    async def test_an_upsert_changes_only_the_columns_it_names(self, ledger: Ledger) -> None:
        async with ledger.write() as connection:
            await rate_limits.put(connection, "project:1", 5.0)
            await connection.execute(update(RateLimit).values(free_at=9.0))
            await rate_limits.put(connection, "project:1", 7.0)
            found = await connection.execute(select(col(RateLimit.emails_per_second), col(RateLimit.free_at)))
            assert [tuple(row) for row in found] == [(7.0, 9.0)]
            values = {"scope": "project:1", "emails_per_second": 8.0, "free_at": 1.0}
            await rows.upsert(connection, RateLimit, values, key=("scope",))
            found = await connection.execute(select(col(RateLimit.emails_per_second), col(RateLimit.free_at)))
            assert [tuple(row) for row in found] == [(8.0, 1.0)]
            await rate_limits.put(connection, "project:1", None)
            assert (await connection.execute(select(RateLimit))).first() is None

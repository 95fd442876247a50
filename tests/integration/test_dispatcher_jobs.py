"""Jobs go in short steps that any dispatcher can continue: after a yield, a kill -9 or a slow database."""

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text, update
from sqlmodel import col

from services.dispatcher import proof
from services.dispatcher.closing import SMALL
from shared.events import CampaignFinished
from shared.ledger import bookmarks
from shared.ledger.batches import requeue
from shared.ledger.database import Ledger
from shared.ledger.models import Batch, Campaign, Recipient
from shared.ledger.repair import Step, repair_next
from shared.ledger.states import BatchState
from tests.support.ledger import (
    FakeSender,
    add_campaign,
    assert_sound,
    batches_of,
    campaign_row,
    counts_by_status,
    timeline_of,
)
from tests.support.services import DispatcherRig, concurrently

ONE_STEP = 0.000_001
"""A soft deadline that has passed after the first step."""


async def all_sent(ledger: Ledger, recipients: int = 3000, failed: int = 0) -> UUID:
    """A campaign in batches of 100 that only has to be closed; the first `failed` of each batch failed."""
    campaign = await add_campaign(ledger, recipients)
    rig, sender = DispatcherRig.on(ledger, batch_size=100, window_floor=1000), FakeSender(ledger)
    await rig.settle()
    for ticket in await sender.released():
        held = await sender.claim(*ticket)
        assert held is not None
        await sender.record(held, "failed", limit=failed)
        await sender.record(held)
        await sender.finish(held)
    return campaign


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The steps of proofs: the recipient ids after which they began, and how many batches they were to compare."""
    seen: list[tuple[int, int]] = []

    async def watched(ledger: Ledger, campaign_id: UUID, after: int, cursor: int, most: int) -> Step:
        seen.append((after, most))
        return await repair_next(ledger, campaign_id, after, cursor, most)

    monkeypatch.setattr(proof, "repair_next", watched)
    return seen


async def test_a_killed_job_is_continued_where_it_was(ledger: Ledger, compared: list[tuple[int, int]]) -> None:
    """Each round is another dispatcher, as after a kill -9 behind any step."""
    campaign = await all_sent(ledger, failed=2)
    rounds = 0
    while (await campaign_row(ledger, campaign)).status != "finished":
        await DispatcherRig.on(ledger, turn_soft_seconds=ONE_STEP).round()
        rounds += 1
    positions = [after for after, _ in compared]
    assert rounds == len(positions) == 3, "30 batches, 10 in a first step"
    assert positions == sorted(set(positions)), "nothing is compared twice"
    words = "finished: 2940 of 3000 sent, 60 failed; most often: without a reply (60)"
    assert (await timeline_of(ledger, campaign))[-1] == ("finished", words), "counted over all steps"
    async with ledger.read() as connection:
        assert await bookmarks.read(connection, proof.bookmark(campaign)) == {}


async def test_a_proof_starts_again_if_a_batch_has_changed_hands(
    ledger: Ledger, compared: list[tuple[int, int]]
) -> None:
    campaign = await all_sent(ledger)
    await DispatcherRig.on(ledger, turn_soft_seconds=ONE_STEP).round()
    first = (await batches_of(ledger, campaign))[0]
    async with ledger.write() as connection:
        await connection.execute(update(Recipient).where(col(Recipient.id) == first.first_id).values(status="pending"))
        await connection.execute(
            update(Batch).where(col(Batch.id) == first.id).values(pending=1, sent=col(Batch.sent) - 1)
        )
        await requeue(connection, col(Batch.id) == first.id)
    rig, sender = DispatcherRig.on(ledger), FakeSender(ledger)
    while await rig.settle() + await sender.send_all_released():
        pass
    assert [after for after, _ in compared].count(0) == 2
    assert sender.sent[first.first_id] == 1
    assert await counts_by_status(ledger, campaign) == {"total": 3000, "sent": 3000}


async def test_a_row_that_disagrees_beyond_the_first_step_keeps_it_open(ledger: Ledger) -> None:
    campaign = await all_sent(ledger)
    last = (await batches_of(ledger, campaign))[-1]
    async with ledger.write() as connection:
        await connection.execute(update(Recipient).where(col(Recipient.id) == last.last_id).values(status="deferred"))
    await DispatcherRig.on(ledger).round()
    assert (await campaign_row(ledger, campaign)).status == "sending"
    assert (await batches_of(ledger, campaign))[-1].state == BatchState.WAITING.value
    rig, sender = DispatcherRig.on(ledger), FakeSender(ledger)
    while await rig.settle() + await sender.send_all_released():
        pass
    assert (await campaign_row(ledger, campaign)).status == "finished"


async def test_two_dispatchers_prove_and_close_it_once(ledger: Ledger) -> None:
    campaign = await all_sent(ledger)
    rigs = [DispatcherRig.on(ledger, turn_soft_seconds=ONE_STEP) for _ in range(2)]
    while (await campaign_row(ledger, campaign)).status != "finished":
        await concurrently(*(rig.round() for rig in rigs))
    assert sum(len(rig.bus.of(CampaignFinished)) for rig in rigs) == 1
    await assert_sound(ledger)


async def test_a_slow_database_gets_smaller_steps(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction that would take too long with more than one batch."""
    campaign = await all_sent(ledger, 500)

    async def slow(*step: Any) -> Step:
        if step[-1] > 1:
            raise TimeoutError
        return await repair_next(*step)

    monkeypatch.setattr(proof, "repair_next", slow)
    rig = DispatcherRig.on(ledger)
    await rig.settle()
    assert (await campaign_row(ledger, campaign)).status == "finished"
    assert rig.value("turns_abandoned_total") == 0


async def test_the_timeline_names_the_limit_that_was_met(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign = await all_sent(ledger, SMALL + 1)

    async def too_slow(*_: Any) -> Step:
        raise TimeoutError

    with monkeypatch.context() as patched:
        patched.setattr(proof, "repair_next", too_slow)
        rig = DispatcherRig.on(ledger, transaction_seconds=7)
        await rig.round()
    kind, words = (await timeline_of(ledger, campaign))[-1]
    assert kind == "yielded"
    assert "smallest step of a job within 7 s (VASHSENDER_TRANSACTION_SECONDS)" in words
    assert rig.value("turns_abandoned_total") == 0
    await DispatcherRig.on(ledger).settle()
    assert (await campaign_row(ledger, campaign)).status == "finished"


async def test_reopening_counts_all_its_steps(ledger: Ledger) -> None:
    """Each round is another dispatcher, and a batch is not looked at twice."""
    campaign = await all_sent(ledger, failed=3)
    async with ledger.write() as connection:
        await connection.execute(update(Campaign).where(col(Campaign.id) == campaign).values(reopen="failed"))
    rounds = 0
    while (await campaign_row(ledger, campaign)).reopen is not None:
        await DispatcherRig.on(ledger, turn_soft_seconds=ONE_STEP, window_floor=1).round()
        rounds += 1
    assert rounds > 2
    assert dict(await timeline_of(ledger, campaign))["reopened"] == "90 failed recipients are tried again"
    assert await counts_by_status(ledger, campaign) == {"total": 3000, "sent": 2910, "pending": 90}
    await assert_sound(ledger)


@pytest.mark.more
async def test_small_campaigns_are_closed_while_long_jobs_go_on(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More long jobs than places. The long jobs cannot end before the small campaign is closed."""
    monkeypatch.setattr("services.dispatcher.jobs.SLICE_SECONDS", 0.0)
    long = [await add_campaign(ledger, 2000, status="paused") for _ in range(5)]
    small = await all_sent(ledger, 100)
    async with ledger.write() as connection:
        await connection.execute(
            update(Campaign).where(col(Campaign.id).in_(long)).values(status="stopping", stop_as="cancelled")
        )
    order: list[UUID] = []
    monkeypatch.setattr("services.dispatcher.stopping.UNCUT_ROWS", 10)
    rig = DispatcherRig.on(ledger)
    publish = rig.bus.publish

    async def published(event: Any) -> bool:
        if isinstance(event, CampaignFinished):
            order.append(event.campaign_id)
        return await publish(event)

    monkeypatch.setattr(rig.bus, "publish", published)
    await rig.settle()
    assert order[0] == small
    assert set(order[1:]) == set(long)
    async with ledger.read() as connection:
        left = await connection.scalar(text("SELECT count(*) FROM bookmark"))
    assert left == 0

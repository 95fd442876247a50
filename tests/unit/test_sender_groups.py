"""Results are recorded in groups: a commit waits a moment for those under way, unless something waits for it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

import pytest
from prometheus_client import CollectorRegistry

from services.sender import recorder as recording
from services.sender.db.record import Group, Recorded
from services.sender.feed import Feed
from services.sender.held_batch import HeldBatch
from services.sender.held_batches import HeldBatches
from services.sender.metrics import SenderMetrics
from services.sender.recorder import Recorder
from services.sender.smtp.contract import Outcome, Verdict
from shared.ledger.database import Ledger
from tests.support.held import held_batch, row
from tests.unit.test_sender_feed import LEDGER, RELAY, SETTINGS, feed_of, take

GROUP = 2
ACCEPTED = Outcome(Verdict.ACCEPTED, RELAY, code=250)
FOR_EVER = 3600.0


@pytest.fixture
def batches() -> HeldBatches:
    return HeldBatches(SenderMetrics(CollectorRegistry(), SETTINGS), GROUP)


@pytest.fixture
def feed(batches: HeldBatches) -> Feed:
    return feed_of(batches)


@pytest.fixture
def held(batches: HeldBatches) -> HeldBatch:
    held = held_batch(*(row(number) for number in range(1, 40)))
    batches.add(held)
    return held


@pytest.mark.usefixtures("held")
def test_an_accepted_email_may_wait_until_the_group_is_full(batches: HeldBatches, feed: Feed) -> None:
    emails = [take(feed) for _ in range(GROUP + 1)]
    feed.done(emails[0], ACCEPTED)
    assert batches.recordable.is_set()
    assert not batches.group_is_full.is_set()
    feed.done(emails[1], ACCEPTED)
    assert batches.group_is_full.is_set()
    batches.begin_group()
    assert not batches.recordable.is_set()
    assert not batches.group_is_full.is_set()


@pytest.mark.usefixtures("held")
def test_the_last_result_of_a_batch_waits_for_nothing(batches: HeldBatches, feed: Feed) -> None:
    feed.done(take(feed), ACCEPTED)
    assert batches.group_is_full.is_set()


@pytest.mark.usefixtures("held")
def test_a_refusal_is_judged_at_once(batches: HeldBatches, feed: Feed) -> None:
    refused, _ = take(feed), take(feed)
    feed.done(refused, Outcome(Verdict.PERMANENT, RELAY, code=550))
    assert batches.group_is_full.is_set()


@pytest.mark.usefixtures("held")
def test_results_do_not_wait_while_they_keep_emails_from_starting(batches: HeldBatches, feed: Feed) -> None:
    while feed.take(RELAY) is not None:
        pass
    assert batches.group_is_full.is_set()


class TestRecorder:
    @pytest.fixture
    async def committed(
        self, batches: HeldBatches, feed: Feed, monkeypatch: pytest.MonkeyPatch
    ) -> AsyncIterator[list[list[int]]]:
        """The recipient ids of each commit of a recorder that runs; the ledger takes everything."""
        commits: list[list[int]] = []

        async def record(_ledger: Ledger, groups: Sequence[Group], _lease_seconds: float) -> dict[int, Recorded]:
            commits.append([result.recipient_id for group in groups for result in group.results])
            return {group.batch_id: Recorded(group.results) for group in groups}

        monkeypatch.setattr(recording, "record", record)
        recorder = Recorder(LEDGER, batches, SETTINGS.lease_seconds, feed.refusals, feed.spread, lambda _relay: None)
        running = asyncio.create_task(recorder.run())
        yield commits
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running

    async def test_a_group_fills_before_it_is_recorded(
        self, held: HeldBatch, feed: Feed, committed: list[list[int]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(recording, "FILL_SECONDS", FOR_EVER)
        emails = [take(feed) for _ in range(GROUP + 1)]
        feed.done(emails[0], ACCEPTED)
        await asyncio.sleep(0.05)
        assert committed == []
        feed.done(emails[1], ACCEPTED)
        await settled(held)
        assert committed == [[1, 2]]

    async def test_one_that_does_not_fill_is_recorded_soon(
        self, held: HeldBatch, feed: Feed, committed: list[list[int]]
    ) -> None:
        email, _ = take(feed), take(feed)
        feed.done(email, ACCEPTED)
        await settled(held)
        assert committed == [[1]]


async def settled(held: HeldBatch) -> None:
    """Returns when nothing of the batch is unrecorded."""
    async with asyncio.timeout(5):
        while not held.unrecorded.is_empty:
            await held.wait_for_change()

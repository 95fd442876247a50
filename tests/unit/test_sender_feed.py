"""When an email may start: lease young, campaign seen sending, few results unrecorded, its time has come."""

import asyncio
import time
from collections.abc import Callable
from uuid import uuid4

import pytest
from prometheus_client import CollectorRegistry

from services.sender.contents import Contents
from services.sender.feed import MOST_PASSED, Feed
from services.sender.held_batch import (
    FAULT_PAUSE_SECONDS,
    FAULTS_TOLERATED,
    LOOK_VALID_SECONDS,
    STARTS_EXPECTED,
    Email,
    HeldBatch,
    StopCause,
)
from services.sender.held_batches import HeldBatches
from services.sender.limits import Limits
from services.sender.memory import Memory
from services.sender.metrics import SenderMetrics
from services.sender.provider_gate import ProviderGate
from services.sender.results import Result
from services.sender.smtp.contract import Outcome, Verdict
from shared.ledger.database import Ledger
from shared.relays.replies import Stage
from shared.settings import SenderSettings
from tests.support.held import held_batch, row

RELAY = "relay.test"
LEDGER = Ledger("sqlite+aiosqlite:///never-opened.db")
SETTINGS = SenderSettings(unrecorded_limit=3, smtp_connections=8, slice_size=2, lease_seconds=15.0)


def no_limits() -> Limits:
    """No scope has a limit, so nothing is read or reserved."""
    return Limits(LEDGER, SenderMetrics(CollectorRegistry(), SETTINGS), lambda: None)


def feed_of(batches: HeldBatches, open_connections: Callable[[], int] = lambda: 0) -> Feed:
    limits = no_limits()
    gate = ProviderGate(LEDGER, "sender@test", limits, SETTINGS.lease_seconds, batches)
    groups, contents = {RELAY: "", "bulk.test": "bulk"}, Contents(LEDGER, Memory(1_000_000), batches.wake_feed)
    return Feed(SETTINGS, batches, limits, gate, groups, contents, open_connections)


@pytest.fixture
def batches() -> HeldBatches:
    return HeldBatches(SenderMetrics(CollectorRegistry(), SETTINGS))


@pytest.fixture
def feed(batches: HeldBatches) -> Feed:
    return feed_of(batches)


def take(feed: Feed) -> Email:
    email = feed.take(RELAY)
    assert email is not None
    return email


def unrecorded(held: HeldBatch) -> list[Result]:
    """The results that waited for a commit, which has them now."""
    commit = held.unrecorded.begin_commit()
    held.unrecorded.end_commit(commit, may_leave=True)
    return list(commit.results)


def commit(held: HeldBatch) -> tuple[list[int], list[int]]:
    """Plays the recorder; returns the recipient ids of the intents and withdrawals that it wrote."""
    written = held.unrecorded.begin_commit()
    held.unrecorded.end_commit(written, may_leave=held.stop is None)
    return list(written.intents), list(written.withdrawals)


def taken(feed: Feed) -> list[int]:
    ids = []
    while (email := feed.take(RELAY)) is not None:
        ids.append(email.row.id)
    return ids


def test_campaigns_take_turns_and_the_oldest_batch_of_each_comes_first(batches: HeldBatches) -> None:
    large, small = uuid4(), uuid4()
    batches.add(held_batch(row(1), row(2), campaign_id=large))
    batches.add(held_batch(row(3), row(4), campaign_id=large))
    batches.add(held_batch(row(11), row(12), campaign_id=small))
    assert taken(feed_of(batches)) == [1, 11, 2, 12, 3, 4]


def test_a_batch_that_cannot_start_yet_lets_the_next_one_of_its_campaign_go(batches: HeldBatches, feed: Feed) -> None:
    campaign = uuid4()
    later = held_batch(row(1), campaign_id=campaign)
    later.stop_for(StopCause.NOT_SENDING, "why")
    batches.add(later)
    batches.add(held_batch(row(2), campaign_id=campaign))
    assert taken(feed) == [2]
    batches.remove(later)
    assert [held.worklist.first(1) for held in batches] == [[]]


@pytest.mark.parametrize("cause", list(StopCause))
def test_no_email_of_a_stopped_batch_starts(batches: HeldBatches, feed: Feed, cause: StopCause) -> None:
    held = held_batch(row(1))
    batches.add(held)
    held.stop_for(cause, "why")
    assert taken(feed) == []


def test_no_email_starts_under_an_old_lease_or_an_old_look(batches: HeldBatches, feed: Feed) -> None:
    now = time.monotonic()
    held = held_batch(row(1), row(2))
    batches.add(held)
    held.lease.renewed(now - 11.0)
    assert feed.take(RELAY) is None
    held.lease.renewed(now)
    held.lease.confirmed(now - LOOK_VALID_SECONDS - 0.01)
    assert feed.take(RELAY) is None
    held.lease.confirmed(now + 100.0)
    assert feed.take(RELAY) is not None


def test_no_email_starts_once_the_process_drains(batches: HeldBatches, feed: Feed) -> None:
    """Neither of a batch that is held already, nor of one whose claim was on its way."""
    early, late = held_batch(row(1)), held_batch(row(2))
    batches.add(early)
    batches.drain()
    batches.add(late)
    assert taken(feed) == []
    assert early.is_over
    assert late.is_over


def test_no_email_starts_while_too_many_results_are_unrecorded(batches: HeldBatches, feed: Feed) -> None:
    held = held_batch(*(row(n) for n in range(1, 9)))
    batches.add(held)
    for _ in range(3):
        feed.done(take(feed), Outcome(Verdict.ACCEPTED, "r", code=250))
    assert feed.take(RELAY) is None
    commit = held.unrecorded.begin_commit()
    assert feed.take(RELAY) is None, "what a commit carries is not recorded yet"
    held.unrecorded.end_commit(commit, may_leave=True)
    assert feed.take(RELAY) is not None


async def test_rows_that_are_closed_or_deferred_are_not_in_doubt_and_keep_no_other_campaign(
    batches: HeldBatches,
) -> None:
    """A crash does not send them twice. Those of a whole campaign take many turns, not one."""
    feed, many = feed_of(batches), 3 * MOST_PASSED
    closed = held_batch(*(row(n, suppressed=True) for n in range(many)))
    other = held_batch(row(many + 1), row(many + 2))
    batches.add(closed)
    batches.add(other)
    assert take(feed).row.id == many + 1
    assert batches.in_doubt() == (0, 1)
    assert len(closed.worklist) == many - MOST_PASSED
    assert take(feed).row.id == many + 2
    while closed.worklist:
        assert feed.take(RELAY) is None
    assert len(unrecorded(closed)) == many


def test_what_a_crash_may_send_twice_is_bounded(batches: HeldBatches, feed: Feed) -> None:
    """Two results unrecorded, and each of the 8 connections has one email in flight and its next one taken: no more."""
    batches.add(held_batch(*(row(n) for n in range(1, 40))))
    for _ in range(2):
        feed.done(take(feed), Outcome(Verdict.ACCEPTED, "r", code=250))
    assert len(taken(feed)) == 3 + 8 - 2


def test_results_are_recorded_in_groups_unless_nothing_else_comes() -> None:
    """A commit waits for a group; one that is all there is, or that something waits for, goes at once."""
    batches = HeldBatches(SenderMetrics(CollectorRegistry(), SETTINGS), group_size=2)
    feed = feed_of(batches)
    batches.add(held_batch(*(row(number) for number in range(1, 5))))
    first, second, third, last = (take(feed) for _ in range(4))
    feed.done(first, Outcome(Verdict.ACCEPTED, "r", code=250))
    assert batches.recordable.is_set()
    assert not batches.group_is_ready.is_set()
    feed.done(second, Outcome(Verdict.ACCEPTED, "r", code=250))
    assert batches.group_is_ready.is_set(), "a group"
    batches.begin_group()
    feed.done(third, Outcome(Verdict.ACCEPTED, "r", code=250))
    assert not batches.group_is_ready.is_set()
    feed.done(last, Outcome(Verdict.ACCEPTED, "r", code=250))
    assert batches.group_is_ready.is_set(), "nothing is in flight"


def test_emails_that_hang_on_spare_connections_do_not_keep_others_from_starting(batches: HeldBatches) -> None:
    """More connections are open than usual, because some of them hang: each has its email beside the usual bound."""
    feed = feed_of(batches, lambda: 20)
    batches.add(held_batch(*(row(number) for number in range(40))))
    assert len(taken(feed)) == SETTINGS.unrecorded_limit + 20


def test_a_suppressed_or_unrenderable_recipient_is_closed_without_an_email(batches: HeldBatches, feed: Feed) -> None:
    held = held_batch(row(1, suppressed=True), row(2, data="{}"), row(3))
    batches.add(held)
    assert taken(feed) == [3]
    assert batches.recordable.is_set()
    assert batches.emails_done == 2
    results = unrecorded(held)
    assert [(result.recipient_id, result.status) for result in results] == [(1, "suppressed"), (2, "failed")]
    assert "name" in (results[1].reply or "")


def test_a_recipient_that_a_look_finds_suppressed_is_closed_before_its_body(batches: HeldBatches, feed: Feed) -> None:
    held = held_batch(row(1), row(2), row(3))
    batches.add(held)
    email = take(feed)
    assert email.may_send_body(RELAY) is True
    held.examined(held.rows_to_examine(10), {"1@example.test", "3@example.test"})
    assert email.may_send_body(RELAY) is False
    feed.done(email, Outcome(Verdict.NOT_STARTED))
    assert taken(feed) == [2]
    assert [(result.recipient_id, result.status) for result in unrecorded(held)] == [
        (1, "suppressed"),
        (3, "suppressed"),
    ]
    held.examined(held.rows_to_examine(10), ())
    assert not held.is_suppressed(row(1)), "a suppression that was removed no longer counts"


def test_an_email_that_no_look_asked_about_waits_for_the_next_one(batches: HeldBatches, feed: Feed) -> None:
    held = held_batch(*(row(number) for number in range(1, 7)))
    batches.add(held)
    held.examined(held.rows_to_examine(2), ())
    assert taken(feed) == [1, 2]
    rows = held.rows_to_examine(3)
    assert {one.id for one in rows} == {1, 2, 3, 4, 5}, "those in flight may still be withdrawn"
    held.examined(rows, {"4@example.test"})
    assert taken(feed) == [3, 5]
    assert [result.recipient_id for result in unrecorded(held)] == [4]


def test_emails_read_after_a_look_that_asked_about_all_may_start(batches: HeldBatches, feed: Feed) -> None:
    held = held_batch(row(1))
    batches.add(held)
    rows = held.rows_to_examine(5)
    held.worklist.add_slice([row(2), row(3, suppressed=True)], 2)
    held.examined(rows, ())
    assert taken(feed) == [1, 2]


def test_a_look_asks_about_few_emails_of_a_batch_that_waits_for_its_limit() -> None:
    held = held_batch(*(row(number) for number in range(300)))
    assert len(held.rows_to_examine(1000)) == 300
    held.give_place_up()
    assert len(held.rows_to_examine(1000)) == STARTS_EXPECTED


def test_how_long_emails_took_is_shown_once_it_is_passed_on() -> None:
    registry = CollectorRegistry()
    batches = HeldBatches(SenderMetrics(registry, SETTINGS))
    feed = feed_of(batches)
    batches.add(held_batch(row(1), row(2)))
    for _ in range(2):
        feed.done(take(feed), Outcome(Verdict.ACCEPTED, RELAY, Stage.DOT, 250, seconds=0.25))

    def shown() -> dict[str, tuple[float | None, float | None]]:
        return {
            phase: (
                registry.get_sample_value("vashsender_delivery_seconds_count", {"phase": phase}),
                registry.get_sample_value("vashsender_delivery_seconds_sum", {"phase": phase}),
            )
            for phase in ("queue", "send")
        }

    assert shown()["send"] == (0, 0)
    batches.metrics.pass_on()
    assert shown()["send"] == (2, 0.5)
    assert shown()["queue"][0] == 2
    batches.metrics.pass_on()
    assert shown()["send"] == (2, 0.5), "each counts once"


def test_an_intent_left_by_a_dead_sender_is_unknown_under_at_most_once(batches: HeldBatches, feed: Feed) -> None:
    held = held_batch(row(1, intended=True), row(2), at_most_once=True)
    batches.add(held)
    assert taken(feed) == [2]
    assert [result.status for result in unrecorded(held)] == ["unknown"]


def test_a_relay_gets_emails_of_its_group_only(batches: HeldBatches, feed: Feed) -> None:
    batches.add(held_batch(row(1)))
    assert feed.take("bulk.test") is None
    assert feed.take(RELAY) is not None


async def test_a_batch_whose_time_has_not_come_wakes_the_feed_when_it_has(batches: HeldBatches, feed: Feed) -> None:
    batches.add(held_batch(row(1), starts_in=0.05))
    assert feed.take(RELAY) is None
    await asyncio.wait_for(feed.ready(), 5)
    assert feed.take(RELAY) is not None


async def test_a_timer_that_comes_too_early_is_set_again(
    batches: HeldBatches, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As uvloop's, which count milliseconds."""
    loop = asyncio.get_running_loop()
    on_time, early = loop.call_at, iter([0.03, 0.02, 0.01])
    monkeypatch.setattr(loop, "call_at", lambda when, *call: on_time(when - next(early, 0.0), *call))
    batches.add(held_batch(row(1), starts_in=0.05))
    async with asyncio.timeout(5):
        while feed.take(RELAY) is None:
            await feed.ready()


class TestAtMostOnce:
    """The ledger has an intent before a body leaves, and only as long as a body may have left."""

    @pytest.fixture
    def held(self, batches: HeldBatches) -> HeldBatch:
        held = held_batch(row(1), at_most_once=True)
        batches.add(held)
        return held

    async def test_the_body_waits_for_its_intent(self, held: HeldBatch, feed: Feed) -> None:
        may_leave = take(feed).may_send_body(RELAY)
        assert isinstance(may_leave, asyncio.Future)
        assert not may_leave.done()
        assert not held.is_over
        assert commit(held) == ([1], [])
        assert may_leave.result() is True

    @pytest.mark.parametrize("verdict", [Verdict.NOT_STARTED, Verdict.RELAY_FAULT, Verdict.THROTTLED])
    @pytest.mark.parametrize("cause", [StopCause.DRAINING, StopCause.NOT_SENDING, StopCause.OUT_OF_TIME])
    async def test_the_intent_is_withdrawn_if_no_body_left(
        self, batches: HeldBatches, held: HeldBatch, feed: Feed, verdict: Verdict, cause: StopCause
    ) -> None:
        email = take(feed)
        may_leave = email.may_send_body(RELAY)
        assert isinstance(may_leave, asyncio.Future)
        held.stop_for(cause, "why")
        commit(held)
        assert may_leave.result() is False
        batches.recordable.clear()
        feed.done(email, Outcome(verdict, "r"))
        assert batches.recordable.is_set()
        assert not held.is_over, "the ledger still has the intent"
        assert commit(held) == ([], [1])
        assert held.is_over

    async def test_an_intent_that_is_being_committed_is_withdrawn_afterwards(self, held: HeldBatch, feed: Feed) -> None:
        email = take(feed)
        email.may_send_body(RELAY)
        running = held.unrecorded.begin_commit()
        feed.done(email, Outcome(Verdict.NOT_STARTED, "r"))
        held.unrecorded.end_commit(running, may_leave=True)
        assert list(running.intents) == [1]
        assert commit(held) == ([], [1])

    async def test_an_intent_that_was_not_committed_yet_never_is(self, held: HeldBatch, feed: Feed) -> None:
        email = take(feed)
        email.may_send_body(RELAY)
        held.stop_for(StopCause.DRAINING, "why")
        feed.done(email, Outcome(Verdict.NOT_STARTED, "r"))
        assert commit(held) == ([], [1])
        assert held.is_over

    async def test_an_email_that_moved_to_another_connection_has_asked_twice(self, held: HeldBatch, feed: Feed) -> None:
        """Its first intent is in the ledger, the second is not."""
        email = take(feed)
        email.may_send_body(RELAY)
        commit(held)
        email.may_send_body(RELAY)
        held.stop_for(StopCause.DRAINING, "why")
        feed.done(email, Outcome(Verdict.NOT_STARTED, "r"))
        assert commit(held) == ([], [1])

    async def test_the_email_starts_again_under_a_new_intent(self, held: HeldBatch, feed: Feed) -> None:
        email = take(feed)
        email.may_send_body(RELAY)
        commit(held)
        feed.done(email, Outcome(Verdict.NOT_STARTED, "r"))
        again = take(feed)
        again.may_send_body(RELAY)
        assert commit(held) == ([1], [1]), "the withdrawal, which is older, is written first"
        feed.done(again, Outcome(Verdict.ACCEPTED, "r", code=250))
        assert commit(held) == ([], [])

    async def test_an_email_that_never_asked_withdraws_nothing(self, held: HeldBatch, feed: Feed) -> None:
        email = take(feed)
        held.stop_for(StopCause.DRAINING, "why")
        feed.done(email, Outcome(Verdict.NOT_STARTED, "r"))
        assert held.is_over


def test_the_relays_fault_is_tried_again_a_few_times_and_then_left_for_later(batches: HeldBatches, feed: Feed) -> None:
    held = held_batch(row(1))
    batches.add(held)
    for _ in range(FAULTS_TOLERATED):
        email = take(feed)
        assert not held.is_over
        feed.done(email, Outcome(Verdict.RELAY_FAULT, "r"))
    assert feed.take(RELAY) is None
    assert unrecorded(held) == []
    assert held.rest_seconds == FAULT_PAUSE_SECONDS
    assert held.is_over


def test_a_refusal_of_the_campaigns_sender_stops_the_batch(batches: HeldBatches, feed: Feed) -> None:
    held = held_batch(row(1), row(2))
    batches.add(held)
    feed.done(take(feed), Outcome(Verdict.SENDER_REFUSED, "relay.test", reply="550 who are you"))
    assert held.stop is not None
    assert held.stop.cause is StopCause.REFUSED
    assert held.stop.why == "relay.test refuses this campaign's mail: 550 who are you"
    assert held.is_over


def test_a_graver_cause_replaces_a_lighter_one() -> None:
    held = held_batch(row(1))
    held.stop_for(StopCause.REFUSED, "refused")
    held.stop_for(StopCause.DRAINING, "draining")
    assert held.stop == (StopCause.REFUSED, "refused")
    held.stop_for(StopCause.LOST, "lost")
    assert held.is_lost


@pytest.mark.parametrize(
    ("outcome", "keeps"),
    [
        (Outcome(Verdict.ACCEPTED, "r", Stage.DOT), False),
        (Outcome(Verdict.TRANSIENT, "r", Stage.RCPT), False),
        (Outcome(Verdict.NOT_STARTED, "r", Stage.DATA), False),
        (Outcome(Verdict.TRANSIENT, "r", Stage.DOT), True),
        (Outcome(Verdict.TRANSIENT, "r", Stage.BODY), True),
        (Outcome(Verdict.RELAY_FAULT, "r", Stage.DOT), True),
        (Outcome(Verdict.AMBIGUOUS, "r", Stage.DOT), True),
    ],
)
def test_the_date_stays_once_a_body_left_and_was_not_accepted(
    batches: HeldBatches, feed: Feed, outcome: Outcome, keeps: bool
) -> None:
    held = held_batch(row(1))
    batches.add(held)
    feed.done(take(feed), outcome)
    assert held.keeps_date is keeps


def test_the_date_of_an_earlier_claim_stays() -> None:
    """That claim ended without a word, so it may have sent bodies under this Date."""
    assert held_batch(row(1), newly_dated=False).keeps_date


def test_the_pace_of_a_batch_counts_from_its_first_email(batches: HeldBatches, feed: Feed) -> None:
    """It waited behind older batches before: that says nothing of how fast it is sent."""
    held = held_batch(row(1), row(2), claimed_ago=10.0)
    batches.add(held)
    assert held.pace(time.monotonic()) == 0.0
    before = time.monotonic()
    email = take(feed)
    after = time.monotonic()
    feed.done(email, Outcome(Verdict.ACCEPTED, RELAY, code=250))
    assert 1 / (1.0 + after - before) <= held.pace(before + 1.0) <= 1 / (1.0 - (after - before))
    held.stop_for(StopCause.DRAINING, "this process is stopping")
    assert held.pace(before + 1.0) == 0.0, "it may be due again at once, and the dispatcher looks soon"

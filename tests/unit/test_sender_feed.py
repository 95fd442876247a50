"""When an email may start: lease young, campaign seen sending, few results unrecorded, its time has come."""

import asyncio
import time
from uuid import UUID, uuid4

import pytest
from prometheus_client import CollectorRegistry

from services.sender.campaigns import CampaignFacts
from services.sender.db.claims import Claim
from services.sender.db.worklist import WorklistRow
from services.sender.feed import LOOK_VALID_SECONDS, Feed
from services.sender.hand import FAULTS_TOLERATED, Email, Hand
from services.sender.in_hand import InHand
from services.sender.message import CampaignHeaders, MessageBuilder
from services.sender.metrics import SenderMetrics
from services.sender.results import RetryPolicy
from services.sender.smtp.contract import Outcome, Verdict
from shared.settings import SenderSettings
from shared.templates import compile_content

SETTINGS = SenderSettings(_env_file=None, unrecorded_limit=3, smtp_connections=8, slice_size=2, lease_seconds=15.0)


def facts(*, at_most_once: bool = False) -> CampaignFacts:
    campaign_id = uuid4()
    content = compile_content("Hello {{ name }}", None, "Dear {{ name }}")
    return CampaignFacts(
        id=campaign_id,
        project_id=UUID(int=1),
        envelope_from="bounces@example.test",
        builder=MessageBuilder(content, CampaignHeaders(campaign_id, "news@example.test")),
        signer=None,
        retries=RetryPolicy(3, 60.0, at_most_once),
        unsubscribe_url=lambda recipient_id: f"https://example.test/u/{recipient_id}",
    )


def row(number: int, **changes: object) -> WorklistRow:
    values: dict[str, object] = {
        "id": number,
        "email": f"person-{number}@example.test",
        "data": '{"name": "Ann"}',
        "status": "pending",
        "attempts": 0,
        "intended": False,
        "suppressed": False,
        **changes,
    }
    return WorklistRow(**values)  # type: ignore[arg-type]


def hand(*rows: WorklistRow, starts_in: float = 0.0, span: float | None = None, at_most_once: bool = False) -> Hand:
    now = time.monotonic()
    claim = Claim(1, uuid4(), 2, 1, 100, max(len(rows), 1), 1_700_000_000.0, starts_in, span)
    made = Hand(claim=claim, facts=facts(at_most_once=at_most_once), claimed_at=now, renewed_at=now, looked_at=now)
    made.worklist.extend(rows)
    made.exhausted = True
    return made


@pytest.fixture
def in_hand() -> InHand:
    return InHand(SenderMetrics(CollectorRegistry()))


@pytest.fixture
def feed(in_hand: InHand) -> Feed:
    return Feed(SETTINGS, in_hand)


def taken(feed: Feed) -> list[int]:
    ids = []
    while (email := feed.take()) is not None:
        ids.append(email.row.id)
    return ids


def test_batches_are_served_in_turn(in_hand: InHand, feed: Feed) -> None:
    in_hand.hands.extend([hand(row(1), row(2)), hand(row(11), row(12))])
    assert taken(feed) == [1, 11, 2, 12]


@pytest.mark.parametrize(
    "change",
    [
        {"stop": "paused"},
        {"lost": True},
        {"renewed_at": time.monotonic() - 11.0},
        {"looked_at": time.monotonic() - LOOK_VALID_SECONDS - 0.01},
    ],
)
def test_no_email_starts(in_hand: InHand, feed: Feed, change: dict[str, object]) -> None:
    held = hand(row(1))
    for name, value in change.items():
        setattr(held, name, value)
    in_hand.hands.append(held)
    assert taken(feed) == []


def test_no_email_starts_while_too_many_results_are_unrecorded(in_hand: InHand, feed: Feed) -> None:
    held, other = hand(*(row(n) for n in range(1, 9))), hand(row(20))
    in_hand.hands.extend([held, other])
    for _ in range(3):
        email = feed.take()
        assert email is not None
        feed.done(email, Outcome(Verdict.ACCEPTED, "r", code=250))
    assert feed.take() is None
    held.results.clear()
    other.results.clear()
    assert feed.take() is not None


def test_what_a_crash_may_send_twice_is_bounded(in_hand: InHand, feed: Feed) -> None:
    """Two results unrecorded, and each of the 8 connections has one email in flight and its next one taken: no more."""
    held = hand(*(row(n) for n in range(1, 40)))
    in_hand.hands.append(held)
    for _ in range(2):
        email = feed.take()
        assert email is not None
        feed.done(email, Outcome(Verdict.ACCEPTED, "r", code=250))
    assert len(taken(feed)) == 3 + 8 - 2


def test_emails_that_hang_on_connections_of_their_own_keep_nobody_from_starting(in_hand: InHand) -> None:
    """More connections are open than usual, because some of them hang: each has its email beside the usual bound."""
    feed = Feed(SETTINGS, in_hand, lambda: 20)
    in_hand.hands.append(hand(*(row(number) for number in range(40))))
    assert len(taken(feed)) == SETTINGS.unrecorded_limit + 20


def test_a_suppressed_or_unrenderable_recipient_is_closed_without_an_email(in_hand: InHand, feed: Feed) -> None:
    held = hand(row(1, suppressed=True), row(2, data="{}"), row(3))
    in_hand.hands.append(held)
    assert taken(feed) == [3]
    assert [(result.recipient_id, result.status) for result in held.results] == [(1, "suppressed"), (2, "failed")]
    assert "name" in (held.results[1].reply or "")
    assert in_hand.recordable.is_set()


def test_an_intent_left_by_a_dead_sender_is_unknown_under_at_most_once(in_hand: InHand, feed: Feed) -> None:
    held = hand(row(1, intended=True), row(2), at_most_once=True)
    in_hand.hands.append(held)
    assert taken(feed) == [2]
    assert held.results[0].status == "unknown"


async def test_a_limited_batch_is_spread_over_its_span(in_hand: InHand, feed: Feed) -> None:
    held = hand(*(row(n) for n in range(4)), span=40.0)
    in_hand.hands.append(held)
    assert taken(feed) == [0]
    held.claimed_at -= 10.0
    assert taken(feed) == [1]


async def test_a_batch_whose_time_has_not_come_wakes_the_feed_when_it_has(in_hand: InHand, feed: Feed) -> None:
    in_hand.hands.append(hand(row(1), starts_in=0.05))
    assert feed.take() is None
    await asyncio.wait_for(feed.ready(), 5)
    assert feed.take() is not None


async def test_at_most_once_asks_the_ledger_before_the_body(in_hand: InHand, feed: Feed) -> None:
    held = hand(row(1), at_most_once=True)
    in_hand.hands.append(held)
    email = feed.take()
    assert isinstance(email, Email)
    answer = email.may_send_body()
    assert isinstance(answer, asyncio.Future)
    assert not answer.done()
    assert [recipient_id for recipient_id, _ in held.intents] == [1]
    assert not held.over


def test_the_relays_fault_is_tried_again_a_few_times_and_then_left_for_later(in_hand: InHand, feed: Feed) -> None:
    held = hand(row(1))
    in_hand.hands.append(held)
    for _ in range(FAULTS_TOLERATED):
        email = feed.take()
        assert email is not None
        assert not held.over
        feed.done(email, Outcome(Verdict.RELAY_FAULT, "r"))
    assert feed.take() is None
    assert held.results == []
    assert held.left_for_later
    assert held.over

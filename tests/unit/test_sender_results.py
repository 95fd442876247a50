"""From an outcome of SMTP to what the ledger records: whose fault it was decides whose attempts it spends."""

import pytest

from services.sender.results import RetryPolicy, result_of
from services.sender.smtp.contract import Outcome, Verdict
from shared.faults.meaning import Consequence
from shared.retries import doubling, parse_schedule

POLICY = RetryPolicy(doubling(60.0, 3))
AT_MOST_ONCE = RetryPolicy(doubling(60.0, 3), at_most_once=True)


def status_of(verdict: Verdict, attempts: int, policy: RetryPolicy = POLICY) -> tuple[str, float | None] | None:
    result = result_of(1, "a@b.test", "pending", attempts, Outcome(verdict, "r"), policy)
    return None if result is None else (result.status, result.delay_seconds)


@pytest.mark.parametrize(
    ("verdict", "attempts", "expected"),
    [
        (Verdict.ACCEPTED, 0, ("sent", None)),
        (Verdict.ACCEPTED, 9, ("sent", None)),
        (Verdict.PERMANENT, 0, ("failed", None)),
        (Verdict.TRANSIENT, 0, ("deferred", 60.0)),
        (Verdict.TRANSIENT, 1, ("deferred", 120.0)),
        (Verdict.TRANSIENT, 2, ("deferred", 240.0)),
        (Verdict.TRANSIENT, 3, ("failed", None)),
        (Verdict.AMBIGUOUS, 0, ("deferred", 60.0)),
        (Verdict.AMBIGUOUS, 3, ("unknown", None)),
        (Verdict.RELAY_FAULT, 0, None),
        (Verdict.THROTTLED, 3, None),
        (Verdict.SENDER_REFUSED, 0, None),
        (Verdict.NOT_STARTED, 0, None),
    ],
)
def test_what_is_recorded(verdict: Verdict, attempts: int, expected: tuple[str, float | None] | None) -> None:
    assert status_of(verdict, attempts) == expected


def test_three_retries_make_four_attempts() -> None:
    attempts = 0
    while (status := status_of(Verdict.TRANSIENT, attempts)) is not None and status[0] == "deferred":
        attempts += 1
    assert attempts + 1 == 4


def test_at_most_once_never_repeats_what_may_have_arrived() -> None:
    assert status_of(Verdict.AMBIGUOUS, 0, AT_MOST_ONCE) == ("unknown", None)
    assert status_of(Verdict.TRANSIENT, 0, AT_MOST_ONCE) == ("deferred", 60.0)


def test_a_foreign_text_is_kept_as_the_ledger_can_hold_it() -> None:
    outcome = Outcome(Verdict.PERMANENT, "relay", reply="no\0 such \udcff user " + "x" * 2000, queue_id="q" * 999)
    result = result_of(1, "a@b.test", "pending", 0, outcome, POLICY)
    assert result is not None
    assert result.reply is not None
    assert result.reply.startswith("no such ? user xxx")
    assert len(result.reply) == 500
    assert result.queue_id == "q" * 200


@pytest.mark.parametrize("consequence", [None, *Consequence])
def test_only_a_mailbox_that_does_not_exist_is_suppressed(consequence: Consequence | None) -> None:
    result = result_of(1, "a@b.test", "pending", 0, Outcome(Verdict.PERMANENT, "r", consequence=consequence), POLICY)
    assert result is not None
    assert result.suppress is (consequence is Consequence.SUPPRESS)


def test_an_email_that_waits_for_its_provider_spends_no_attempt() -> None:
    for hold_seconds, expected in ((0.0, POLICY.hold_seconds), (42.0, 42.0)):
        outcome = Outcome(Verdict.HELD, "r", code=421, reply="slow down", hold_seconds=hold_seconds)
        result = result_of(1, "a@b.test", "deferred", 2, outcome, POLICY)
        assert result is not None
        assert (result.status, result.attempts, result.delay_seconds) == ("deferred", 2, expected)
        assert result.reply == "slow down"


def test_by_the_schedule_a_deferred_recipient_is_tried_until_the_campaign_ends() -> None:
    policy = RetryPolicy(parse_schedule("1m,5m,15m,30m,1h,2h+"))
    delays = [status_of(Verdict.TRANSIENT, attempts, policy) for attempts in range(8)]
    assert delays == [("deferred", 60.0 * minutes) for minutes in (1, 5, 15, 30, 60, 120, 120, 120)]


def test_an_email_that_may_have_arrived_is_sent_again_three_times_at_most() -> None:
    policy = RetryPolicy(parse_schedule("1m+"))
    assert status_of(Verdict.AMBIGUOUS, 2, policy) == ("deferred", 60.0)
    assert status_of(Verdict.AMBIGUOUS, 3, policy) == ("unknown", None)

"""From an outcome of SMTP to what the ledger records: whose fault it was decides whose attempts it spends."""

import pytest

from services.sender.results import RetryPolicy, result_of
from services.sender.smtp.contract import Outcome, Verdict

POLICY = RetryPolicy(max_retries=3, delay_seconds=60.0)
AT_MOST_ONCE = RetryPolicy(max_retries=3, delay_seconds=60.0, at_most_once=True)


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


def test_only_a_permanent_refusal_suppresses() -> None:
    for verdict, expected in ((Verdict.PERMANENT, True), (Verdict.TRANSIENT, False)):
        result = result_of(1, "a@b.test", "pending", 0, Outcome(verdict, "r", suppress=True), POLICY)
        assert result is not None
        assert result.suppress is expected

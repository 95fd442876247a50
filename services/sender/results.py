"""From an outcome of SMTP to what the ledger records of a recipient."""

from dataclasses import dataclass
from typing import NamedTuple

from services.sender.smtp.contract import Outcome, Verdict
from shared.faults.meaning import Consequence
from shared.ledger.states import RecipientStatus
from shared.retries import RetrySchedule

REPLY_KEPT = 500

SENT, FAILED, UNKNOWN, DEFERRED = (
    RecipientStatus.SENT.value,
    RecipientStatus.FAILED.value,
    RecipientStatus.UNKNOWN.value,
    RecipientStatus.DEFERRED.value,
)

AMBIGUOUS_RETRIES = 3
"""After so many attempts an email that may have arrived is not sent again."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When the recipients of a campaign that could not be sent to are tried again."""

    schedule: RetrySchedule
    #: The wait after its provider has refused us; that spends no attempt.
    hold_seconds: float = 300.0
    at_most_once: bool = False


class Result(NamedTuple):
    """One change of one recipient."""

    recipient_id: int
    email: str
    # The status and attempts that the ledger is expected to have.
    was: str
    attempts_was: int
    # Those that it is to have.
    status: str
    attempts: int
    # For deferred recipients: the next attempt is due after this time.
    delay_seconds: float | None = None
    # What the relay answered, and which relay it was; None if none did.
    code: int | None = None
    enhanced: str | None = None
    reply: str | None = None
    relay: str | None = None
    queue_id: str | None = None
    # The mailbox does not exist: its address is suppressed.
    suppress: bool = False

    @property
    def is_fact(self) -> bool:
        """A relay has the email. That is recorded whatever happened meanwhile."""
        return self.status == RecipientStatus.SENT


def result_of(
    recipient_id: int, email: str, was: str, attempts: int, outcome: Outcome, policy: RetryPolicy
) -> Result | None:
    """What is to be recorded, or None where the attempt leaves the recipient as it was: a relay that is down, throttles
    or was never asked is not the recipient's fault and spends none of its attempts."""
    retry_after = policy.schedule.delay_after(attempts)
    spent = attempts + 1
    match outcome.verdict:
        case Verdict.ACCEPTED:
            status, delay = SENT, None
        case Verdict.PERMANENT:
            status, delay = FAILED, None
        case Verdict.TRANSIENT if retry_after is None:
            status, delay = FAILED, None
        case Verdict.AMBIGUOUS if policy.at_most_once or retry_after is None or attempts >= AMBIGUOUS_RETRIES:
            status, delay = UNKNOWN, None
        case Verdict.TRANSIENT | Verdict.AMBIGUOUS:
            status, delay = DEFERRED, retry_after
        case Verdict.HELD:
            status, delay = DEFERRED, outcome.hold_seconds or policy.hold_seconds
            spent = attempts
        case _:
            return None
    return Result(
        recipient_id,
        email,
        was,
        attempts,
        status,
        spent,
        delay,
        outcome.code,
        _kept(outcome.enhanced, 16),
        _kept(outcome.reply, REPLY_KEPT),
        _kept(outcome.relay, 200),
        _kept(outcome.queue_id, 200),
        outcome.consequence is Consequence.SUPPRESS,
    )


def closed(
    recipient_id: int, email: str, was: str, attempts: int, status: RecipientStatus, reply: str | None = None
) -> Result:
    """A recipient closed without an attempt: suppressed, unknown after a crash, or not renderable."""
    return Result(recipient_id, email, was, attempts, status.value, attempts, reply=_kept(reply, REPLY_KEPT))


def _kept(text: str | None, longest: int) -> str | None:
    """What the ledger can hold of a foreign text: no NUL, no half characters, not too long."""
    if text is None:
        return None
    if text.isascii() and "\0" not in text:
        return text[:longest]
    return text.replace("\0", "").encode("utf-8", "replace").decode()[:longest]

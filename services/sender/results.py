"""From an outcome of SMTP to what the ledger records of a recipient."""

from dataclasses import dataclass

from services.sender.smtp.contract import Outcome, Verdict
from shared.ledger.states import RecipientStatus

REPLY_KEPT = 500


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """A campaign's: `max_retries` after the first attempt, the first after `delay_seconds`, then twice as long each."""

    max_retries: int
    delay_seconds: float
    at_most_once: bool = False


@dataclass(frozen=True, slots=True)
class Result:
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
    match outcome.verdict:
        case Verdict.ACCEPTED:
            status, delay = RecipientStatus.SENT, None
        case Verdict.PERMANENT:
            status, delay = RecipientStatus.FAILED, None
        case Verdict.TRANSIENT if attempts >= policy.max_retries:
            status, delay = RecipientStatus.FAILED, None
        case Verdict.AMBIGUOUS if policy.at_most_once or attempts >= policy.max_retries:
            status, delay = RecipientStatus.UNKNOWN, None
        case Verdict.TRANSIENT | Verdict.AMBIGUOUS:
            status, delay = RecipientStatus.DEFERRED, policy.delay_seconds * 2**attempts
        case _:
            return None
    return Result(
        recipient_id=recipient_id,
        email=email,
        was=was,
        attempts_was=attempts,
        status=status.value,
        attempts=attempts + 1,
        delay_seconds=delay,
        code=outcome.code,
        enhanced=_kept(outcome.enhanced, 16),
        reply=_kept(outcome.reply, REPLY_KEPT),
        relay=_kept(outcome.relay, 200),
        queue_id=_kept(outcome.queue_id, 200),
        suppress=outcome.suppress and outcome.verdict is Verdict.PERMANENT,
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
    return text.replace("\0", "").encode("utf-8", "replace").decode()[:longest]

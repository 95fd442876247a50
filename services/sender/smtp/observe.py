"""What the engine tells while it works: how long phases took, and what each attempt came to."""

import re
from collections.abc import Callable, Mapping
from typing import Protocol

import structlog

from services.sender.smtp.contract import Job, Outcome, Stage, Verdict

_ADDRESS = re.compile(r"[^\s<>,;:\"'()]+@[^\s<>,;:\"'()]+")


class Observer(Protocol):
    """Called on the hot path: must be quick, must not raise."""

    def phase(self, relay: str, stage: Stage, seconds: float) -> None:
        """A phase of a connection (CONNECT to AUTH), or the wait for the reply to a body (DOT), is over."""

    def attempt(self, job: Job, outcome: Outcome) -> None:
        """An attempt is over; the same outcome goes to the source."""

    def relay(self, relay: str, state: str, reason: str, seconds: float) -> None:
        """A relay is now `up`, `slow` or `resting`, for about `seconds`."""


class Silent:
    """Observes nothing."""

    def phase(self, relay: str, stage: Stage, seconds: float) -> None:
        """Ignored."""

    def attempt(self, job: Job, outcome: Outcome) -> None:
        """Ignored."""

    def relay(self, relay: str, state: str, reason: str, seconds: float) -> None:
        """Ignored."""


class LogObserver(Silent):
    """One structured event per attempt: accepted ones at debug level, the others at info, without addresses.

    `fields` gives what identifies the job (campaign, batch, recipient id). `accepted=False` leaves out accepted
    attempts altogether, which costs nothing per email.
    """

    def __init__(
        self, fields: Callable[[Job], Mapping[str, object]] = lambda _job: {}, *, accepted: bool = True
    ) -> None:
        self._log = structlog.get_logger("smtp")
        self._fields = fields
        self._accepted = accepted

    def attempt(self, job: Job, outcome: Outcome) -> None:
        """`smtp_attempt` with relay, stage, code, enhanced code and reply."""
        if outcome.verdict is Verdict.ACCEPTED:
            if not self._accepted:
                return
            emit = self._log.debug
        else:
            emit = self._log.info
        emit(
            "smtp_attempt",
            verdict=outcome.verdict.value,
            relay=outcome.relay,
            stage=outcome.stage.value if outcome.stage else None,
            code=outcome.code,
            enhanced=outcome.enhanced,
            reply=without_addresses(outcome.reply),
            queue_id=outcome.queue_id,
            seconds=round(outcome.seconds, 3),
            **self._fields(job),
        )

    def relay(self, relay: str, state: str, reason: str, seconds: float) -> None:
        """`smtp_relay`, at warning level unless it is up again."""
        emit = self._log.info if state == "up" else self._log.warning
        emit("smtp_relay", relay=relay, state=state, reason=without_addresses(reason), seconds=round(seconds, 1))


def without_addresses(text: str) -> str:
    """`text` with every email address replaced: relays like to quote them, and logs must not hold them."""
    return _ADDRESS.sub("<address>", text)

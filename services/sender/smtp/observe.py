"""What the engine reports while it works: how long stages took, and the outcome of each attempt."""

import logging
from collections.abc import Callable, Mapping
from typing import Protocol

from services.sender.smtp.contract import Job, Outcome, Verdict
from shared.plain_structlog import structlog
from shared.relays.replies import Stage, without_addresses


class Observer(Protocol):
    """Called for every email: must be quick, must not raise."""

    def phase(self, relay: str, stage: Stage, seconds: float) -> None:
        """A stage of opening a connection (CONNECT to AUTH), or the wait for the reply to a body (DOT), is over."""

    def attempt(self, job: Job, outcome: Outcome) -> None:
        """An attempt is over. The source gets the same outcome, unless another relay or connection is tried now."""

    def relay(self, relay: str, state: str, reason: str, seconds: float) -> None:
        """A relay is now `up`, `slow` or `resting`, or one provider rests there, for about `seconds`."""


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

    `fields` gives what identifies the job (campaign, batch, recipient id). The log level is read once, when this is
    made, so that accepted emails cost nothing above debug level: configure logging first.
    """

    def __init__(self, fields: Callable[[Job], Mapping[str, object]] = lambda _job: {}) -> None:
        self._log = structlog.get_logger().bind()
        self._fields = fields
        self._tell_accepted = self._log.is_enabled_for(logging.DEBUG)

    def attempt(self, job: Job, outcome: Outcome) -> None:
        """`smtp_attempt` with relay, stage, code, enhanced code and reply."""
        emit = self._log.info
        if outcome.verdict is Verdict.ACCEPTED:
            if not self._tell_accepted:
                return
            emit = self._log.debug
        emit(
            "smtp_attempt",
            verdict=outcome.verdict.value,
            relay=outcome.relay,
            stage=outcome.stage.value if outcome.stage else None,
            code=outcome.code,
            enhanced=outcome.enhanced,
            fault=outcome.consequence.fault.value if outcome.consequence else None,
            consequence=outcome.consequence.value if outcome.consequence else None,
            reply=without_addresses(outcome.reply),
            queue_id=outcome.queue_id,
            seconds=round(outcome.seconds, 3),
            **self._fields(job),
        )

    def relay(self, relay: str, state: str, reason: str, seconds: float) -> None:
        """`smtp_relay`, at warning level unless it is up again."""
        emit = self._log.info if state == "up" else self._log.warning
        emit("smtp_relay", relay=relay, state=state, reason=reason, seconds=round(seconds, 1))

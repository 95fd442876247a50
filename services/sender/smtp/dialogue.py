"""The words of the SMTP dialogue: what a reply answers, and what a connection tells its owner."""

import math
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from services.sender.smtp.attempt import Attempt
from services.sender.smtp.config import EngineConfig
from shared.relays.replies import Reply, Stage

if TYPE_CHECKING:
    from services.sender.smtp.answers import Answers
    from services.sender.smtp.connection import Connection


class Step(Enum):
    """What a reply answers."""

    RSET = "RSET"
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    DOT = "the final dot"
    LONE_DOT = "a lone dot"  # ends a DATA that has no recipient
    QUIT = "QUIT"


ENVELOPE = (Step.MAIL, Step.RCPT, Step.DATA)
STAGES = {Step.RSET: Stage.MAIL, Step.MAIL: Stage.MAIL, Step.RCPT: Stage.RCPT, Step.DATA: Stage.DATA}


def seconds_to_answer(config: EngineConfig) -> dict[Step, float]:
    """How long a relay may take for each step."""
    return {
        Step.RSET: config.reply_seconds,
        Step.MAIL: config.reply_seconds,
        Step.RCPT: config.reply_seconds,
        Step.DATA: config.reply_seconds,
        Step.DOT: math.inf,  # all of the email's own time
        Step.LONE_DOT: config.reply_seconds,
        Step.QUIT: config.quit_seconds,
    }


class Owner(Protocol):
    """What a connection needs. Every attempt it was given comes back through exactly one of these, down to `unmade`.

    The exception is `reclaimed`, which undoes `displaced`."""

    def accepted(self, connection: "Answers", attempt: Attempt, reply: Reply, dot_seconds: float) -> None:
        """250 after the final dot."""

    def refused(self, connection: "Answers", attempt: Attempt, stage: Stage, reply: Reply) -> None:
        """4xx or 5xx, at `stage`."""

    def ambiguous(self, connection: "Connection", attempt: Attempt, reply: Reply) -> None:
        """Body bytes left, and no reply will come. `reply` says why; its code is 0 unless the relay gave one."""

    def interrupted(self, connection: "Connection", attempt: Attempt, stage: Stage, reply: Reply) -> None:
        """The relay fell silent or hung up when it was this email's turn. It cannot have been delivered."""

    def displaced(self, connection: "Connection", attempt: Attempt, reply: Reply) -> None:
        """The connection ended, or hangs, but this email's turn had not come."""

    def reclaimed(self, attempt: Attempt) -> bool:
        """The relay has caught up, and an email that was displaced by its stalling could leave here after all. True
        gives it back; False if another connection has it."""

    def withdrawn(self, connection: "Connection", attempt: Attempt) -> None:
        """`may_send_body` said no."""

    def unmade(self, connection: "Connection", attempt: Attempt, error: BaseException) -> None:
        """The job could not make its body, or could not say whether it may leave."""

    def too_big(self, connection: "Connection", attempt: Attempt, limit: int) -> None:
        """Its body is larger than the `limit` octets that the relay takes; no byte of it has left."""

    def next_attempt(self, connection: "Connection") -> Attempt | None:
        """The next email for this connection, or None."""

    def idle(self, connection: "Connection") -> None:
        """Nothing is outstanding and there was no email to take."""

    def closed(self, connection: "Connection") -> None:
        """The transport is gone or going. Told before what was in flight is."""

"""What a reply does to the emails on a connection: accepted, refused, one may go ahead, or nothing can be trusted."""

from abc import ABC, abstractmethod

from services.sender.smtp.attempt import Attempt
from services.sender.smtp.commands import Commands
from services.sender.smtp.dialogue import ENVELOPE, STAGES, Owner, Step
from services.sender.smtp.making import Making
from shared.relays.replies import Reply, Stage


class Answers(ABC):
    """The half of a connection that listens. At most two emails are on it: one whose body is out, one behind it."""

    _making: Making

    def __init__(self, owner: Owner, relay: str, pipelining: bool) -> None:
        self.relay = relay
        self.pipelining = pipelining
        self.delivered = 0
        self.closed = False
        self.quiet_since = 0.0  # when the latest reply came, or what ended a silence of our own was written
        self._owner = owner
        self._commands = Commands(pipelining)
        self._expected = self._commands.expected
        self._sent: Attempt | None = None  # its body is out
        self._open: Attempt | None = None  # its envelope is out, its body is not
        self._displaced: Attempt | None = None  # its envelope was out here, and it may have gone elsewhere
        self._accepted: tuple[Attempt, Reply, float] | None = None  # its owner has not been told
        self._go_ahead = False  # 354 has come for `_open`
        self._spoke_at = 0.0  # when the oldest thing unanswered was written

    def answer(self, step: Step, reply: Reply) -> None:
        """`reply` has come to `step`, which is no longer expected."""
        code = reply.code
        if code == 421:
            self._answer_421(step, reply)
        elif 300 <= code < 400 and not (step is Step.DATA and code == 354):
            self._out_of_step(step, reply)
        elif step is Step.DOT:
            self._answer_dot(reply)
        elif step is Step.DATA:
            self._answer_data(reply)
        elif step is Step.MAIL or step is Step.RCPT:
            if code >= 400:
                self._refuse(step, reply)
            elif self._commands.refused is not None:
                # A recipient accepted for a sender it refused: a body could go anywhere, even a lone dot.
                self._out_of_step(step, reply)
        elif step is Step.LONE_DOT:
            self._commands.over()
        elif step is Step.QUIT or code >= 400:  # RSET cannot be refused (RFC 5321, 4.1.1.5)
            self._end(reply, blame=step is Step.RSET)

    def _tell_accepted(self) -> None:
        """Once the relay has its next body: while it looks at that one, the accounts of the last are written."""
        if self._accepted is not None:
            accepted, self._accepted = self._accepted, None
            self._owner.accepted(self, *accepted)

    def _answer_dot(self, reply: Reply) -> None:
        attempt = self._sent
        if attempt is None or (reply.code < 300 and not self._dot_may_have_left()):
            self._out_of_step(Step.DOT, reply)
            return
        self._sent = None
        if reply.code < 300:
            self.delivered += 1
            self._accepted = (attempt, reply, self.quiet_since - self._spoke_at)
        else:
            self._owner.refused(self, attempt, Stage.DOT, reply)

    def _answer_data(self, reply: Reply) -> None:
        if reply.code >= 400:
            if self._commands.refused is None:
                self._refuse(Step.DATA, reply)
            self._commands.over()
        elif reply.code != 354:
            self._out_of_step(Step.DATA, reply)
        elif self._commands.refused is not None:
            self._expected.append(Step.LONE_DOT)
            self._write(b".\r\n")
        elif self._open is not None:
            self._go_ahead = True
        elif self._displaced is not None and self._owner.reclaimed(self._displaced):
            self._open, self._go_ahead = self._displaced, True
            self._making.begin(self._displaced)
        else:
            # Its email has gone elsewhere. A lone dot would deliver an empty one in its place.
            self._end(Reply(0, b"its email went elsewhere"), blame=False)

    def _answer_421(self, step: Step, reply: Reply) -> None:
        """It closes the connection. That concerns the email whose turn it is, and the next one goes elsewhere."""
        if step is Step.DOT and self._sent is not None:
            attempt, self._sent = self._sent, None
            self._owner.refused(self, attempt, Stage.DOT, reply)
        elif step in ENVELOPE and self._open is not None and not (step is Step.MAIL and self.delivered):
            attempt, self._open = self._open, None
            self._owner.refused(self, attempt, STAGES[step], reply)
        # else: idle for too long, or enough emails on one connection. Not the next email's business.
        self._end(reply, blame=False)

    def _out_of_step(self, step: Step, reply: Reply) -> None:
        self._end(Reply(0, f"out of step: {reply.code} in reply to {step.value}".encode()), blame=True)

    def _refuse(self, step: Step, reply: Reply) -> None:
        if self._commands.refused is not None:
            return
        attempt, self._open = self._open, None
        self._making.stop()
        self._commands.refuse(step)
        if attempt is not None:
            self._owner.refused(self, attempt, STAGES[step], reply)

    @abstractmethod
    def _write(self, data: bytes) -> None: ...

    @abstractmethod
    def _dot_may_have_left(self) -> bool: ...

    @abstractmethod
    def _end(self, reply: Reply, *, blame: bool) -> None: ...

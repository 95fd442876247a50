"""What has been said to the relay and is not answered: each reply pairs with the oldest step of it."""

from collections import deque

from services.sender.smtp.dialogue import ENVELOPE, Step


class Commands:
    """The envelope under way, and the steps that coming replies answer.

    With PIPELINING an envelope is said at once; without, one command at a time (`unasked` are those to come)."""

    __slots__ = ("_needs_rset", "_pipelining", "envelope_busy", "expected", "refused", "unasked")

    def __init__(self, pipelining: bool) -> None:
        self.expected: deque[Step] = deque()  # what the coming replies answer, oldest first
        self.unasked: list[tuple[Step, bytes]] = []
        self.envelope_busy = False  # replies to an envelope are outstanding, whether or not its email still wants them
        self.refused: Step | None = None  # the step of the envelope that was refused first
        self._needs_rset = False
        self._pipelining = pipelining

    def may_begin(self) -> bool:
        """Whether an envelope may be said now."""
        return not self.envelope_busy and (self._pipelining or not self.expected)

    def begin(self, envelope: bytes, out: list[bytes]) -> None:
        """Put MAIL, RCPT and DATA (`envelope`), or the first of them, into `out`; RSET only after a refusal."""
        self.envelope_busy = True
        if self._pipelining:
            if self._needs_rset:
                out.append(b"RSET\r\n")
                self.expected.append(Step.RSET)
            out.append(envelope)
            self.expected.extend(ENVELOPE)
        else:
            self.unasked = list(zip(ENVELOPE, envelope.splitlines(keepends=True), strict=True))
            if self._needs_rset:
                self.unasked.insert(0, (Step.RSET, b"RSET\r\n"))
            self.ask_next(out)
        self._needs_rset = False

    def ask_next(self, out: list[bytes]) -> None:
        """Put the next of `unasked` into `out`."""
        step, command = self.unasked.pop(0)
        self.expected.append(step)
        out.append(command)

    def refuse(self, step: Step) -> None:
        """The relay said no to `step`: what has not been asked never is."""
        self.refused = step
        self._needs_rset = True
        if self.unasked:
            self.unasked.clear()
            self.over()

    def over(self) -> None:
        """Every reply to the envelope has come."""
        self.envelope_busy = False
        self.refused = None

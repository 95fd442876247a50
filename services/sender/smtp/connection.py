"""One connection to a relay: the SMTP dialogue, pipelined where the relay allows it (RFC 2920).

In steady state one write carries `body . MAIL RCPT DATA`: the body of one email and the envelope of the next, so an
email costs one round trip. At most one body is out at a time, and it is always the oldest thing unanswered; so a lost
connection makes exactly that email ambiguous.

There are no tasks, timers or futures per email: bytes arrive, replies pair with the steps that were said
(`commands.py`), and at the end of each chunk of bytes `_pump` writes whatever may be written now. Replies that nobody
asked for therefore never pair with a command that was written after them.
"""

import asyncio
import math
from collections.abc import Container

from services.sender.smtp.answers import Answers
from services.sender.smtp.attempt import Attempt
from services.sender.smtp.config import EngineConfig
from services.sender.smtp.contract import Job
from services.sender.smtp.dialogue import STAGES, Owner, Step, seconds_to_answer
from services.sender.smtp.making import Making
from services.sender.smtp.replies import BadReplyError, ReplyReader
from shared.relays.replies import Reply, Stage
from shared.relays.session import Session

SURELY_BODY_BYTES = 4096  # more than this in the transport's buffer is more than an envelope: the dot has not left


class Connection(Answers, asyncio.Protocol):
    """Takes over an established transport and works for `owner` until it is closed."""

    def __init__(self, owner: Owner, relay: str, session: Session, config: EngineConfig, most_emails: int) -> None:
        super().__init__(owner, relay, session.pipelining)
        self.smtputf8 = session.smtputf8
        self.stalled = False  # it waits unusually long
        self.retiring = False  # it takes no further email
        self._loop = asyncio.get_running_loop()
        self._transport = session.transport
        self._emails_left = most_emails
        self._reader = ReplyReader()
        self._making = Making(self)
        self._size_limit = session.size_limit
        self._soft_seconds = config.email_soft_seconds
        self._hard_seconds = config.email_hard_seconds
        self._limits = seconds_to_answer(config)
        self.opened_at = self.quiet_since = self._loop.time()
        session.transport.set_protocol(self)

    @property
    def in_flight(self) -> int:
        """Emails on this connection that have no verdict yet: at most two."""
        return (self._sent is not None) + (self._open is not None)

    @property
    def is_idle(self) -> bool:
        """Nothing is outstanding, and it may take an email."""
        return not (self.closed or self.retiring or self._expected or self._open or self._reader.mid_reply)

    def offer(self) -> None:
        """There may be work: take it if there is room."""
        self._pump()

    def retire(self) -> None:
        """Take no further email; QUIT once nothing is outstanding."""
        self.retiring = True
        self._pump()

    def abort(self, why: str) -> None:
        """Drop the connection now, for a reason of our own."""
        self._end(Reply(0, why.encode()), blame=False)

    def give_up(self, jobs: Container[Job], why: str) -> None:
        """Stop with these emails, for a reason of our own. One whose body is out takes the connection with it; one
        behind the body of another only comes back."""
        if self._sent is not None and self._sent.job in jobs:
            self.abort(why)
        elif self._open is not None and self._open.job in jobs:
            attempt = self._open
            self._making.stop()
            if self._sent is None:
                self.withdrawn(attempt)
            else:
                self._open = None
                self._owner.withdrawn(self, attempt)

    def check(self, now: float, stall_seconds: float) -> None:
        """Look at the clock: end what has waited too long, and say what waits unusually long."""
        if self.closed or not (self._expected or self._open or self._reader.mid_reply):
            return
        waited = now - self.quiet_since
        if waited >= self._limit():
            # With nothing to be answered, it is our own side that took so long.
            self._end(Reply(0, f"no reply within {waited:.0f} s".encode()), blame=bool(self._expected))
        elif waited > stall_seconds:
            self.stalled = True
            if self._sent is not None and self._open is not None:
                # Its envelope is out, its body is not: another connection can carry it.
                self._displaced, self._open = self._open, None
                self._making.stop()
                self._owner.displaced(self, self._displaced, Reply(0, b"the email before it waits for its reply"))

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        """Pair replies with steps, then write what may be written."""
        if self.closed:
            return
        try:
            replies = self._reader.feed(data)
        except BadReplyError as error:
            self._end(Reply(0, f"not SMTP: {error}".encode()), blame=True)
            return
        if replies:
            self.quiet_since = self._loop.time()
            self.stalled = False
        for reply in replies:
            if self._expected:
                self.answer(self._expected.popleft(), reply)
            else:
                # 421 may come at any time (RFC 5321, 3.8). Anything else: replies and commands no longer pair.
                self._end(reply, blame=reply.code != 421)
            if self.closed:
                return
        self._pump()
        self._tell_accepted()

    def eof_received(self) -> bool:
        """The relay has closed its side."""
        self._end(Reply(0, b"the relay closed the connection"), blame=True)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport is gone."""
        self._end(Reply(0, f"the connection was lost: {exc or 'closed'}".encode()), blame=True)

    # writing

    def _pump(self) -> None:
        if self.closed or (self._reader.mid_reply and not self._expected):
            return
        silent = not self._expected
        out: list[bytes] = []
        if self._go_ahead:
            body = self._body_to_send()
            if body is None:
                return
            self._sent, self._open = self._open, None
            self._go_ahead = self._commands.envelope_busy = False
            self._expected.append(Step.DOT)
            out += (body, b".\r\n")
        fresh = None
        if self._commands.unasked:
            if self._expected or self._too_late(self._open):
                return
            self._commands.ask_next(out)
        elif self._commands.may_begin():
            fresh = self._begin(out)
        if out:
            if silent:  # a body always leaves in silence: everything before it has been answered
                self.quiet_since = self._spoke_at = self._loop.time()
            self._transport.writelines(out)
        if fresh is not None:
            self._making.begin(fresh)
        elif not (self._expected or self._open):
            self._nothing_to_do()

    def _begin(self, out: list[bytes]) -> Attempt | None:
        """Take an email and put its envelope, or the first command of it, into `out`."""
        while not self.retiring and self._emails_left and (attempt := self._owner.next_attempt(self)) is not None:
            self._open, self._displaced = attempt, None
            if self._size_limit is not None:
                self._making.begin(attempt)
                if self._open is None or self._too_big(attempt):
                    continue
            self._emails_left -= 1
            self._commands.begin(attempt.envelope if self._size_limit is None else attempt.sized_envelope(), out)
            return attempt
        return None

    def _body_to_send(self) -> bytes | None:
        """The body, if it is made and may leave at this instant."""
        attempt = self._open
        if attempt is None or attempt.body is None or self._too_late(attempt):
            return None
        if self._too_big(attempt):
            self._end(Reply(0, b"an email was too big"), blame=False)
            return None
        return self._making.body_to_send(attempt)

    def _too_big(self, attempt: Attempt) -> bool:
        """Whether the relay has said that it takes no message of this size (RFC 1870)."""
        if self._size_limit is None or attempt.body is None or len(attempt.body) <= self._size_limit:
            return False
        self._open = None
        self._owner.too_big(self, attempt, self._size_limit)
        return True

    def _nothing_to_do(self) -> None:
        if not (self.retiring or self._emails_left == 0):
            self._owner.idle(self)
            return
        self.retiring = True
        self._expected.append(Step.QUIT)
        self.quiet_since = self._loop.time()
        self._transport.write(b"QUIT\r\n")

    def _too_late(self, attempt: Attempt | None) -> bool:
        """Past its soft limit an email begins no further step. Ends the connection, which is in the middle of it."""
        if attempt is None or self._loop.time() - attempt.started <= self._soft_seconds:
            return False
        self._end(Reply(0, b"too late for the next step"), blame=True)
        return True

    # making.Maker

    def made(self) -> None:
        """A body or a permission has come."""
        self._pump()

    def withdrawn(self, attempt: Attempt) -> None:
        """After a 354 nothing but a body can follow; so the connection has to go."""
        self._open = None
        self._owner.withdrawn(self, attempt)
        self._end(Reply(0, b"an email was withdrawn"), blame=False)

    def unmade(self, attempt: Attempt, error: BaseException) -> None:
        """The email is reported; the connection has to go if its body was due."""
        self._open = None
        self._owner.unmade(self, attempt, error)
        if self._go_ahead:
            self._end(Reply(0, b"an email could not be made"), blame=False)

    # what Answers asks for

    def _write(self, data: bytes) -> None:
        self._transport.write(data)

    def _dot_may_have_left(self) -> bool:
        return self._transport.get_write_buffer_size() <= SURELY_BODY_BYTES

    # ending

    def _limit(self) -> float:
        """Seconds that the present silence may last."""
        oldest = self._sent or self._open
        phase = self._limits[self._expected[0]] if self._expected else math.inf
        if oldest is None:
            return min(phase, self._hard_seconds)
        return min(phase, oldest.started + self._hard_seconds - self.quiet_since)

    def _end(self, reply: Reply, *, blame: bool) -> None:
        """Drop the connection; report what was in flight. `blame`: whoever's turn it was is under suspicion.

        Never `close()`: that may still deliver what is in the buffer."""
        if self.closed:
            return
        self._tell_accepted()
        self.closed = True
        sent, attempt = self._sent, self._open
        self._sent = self._open = None
        stage = STAGES.get(self._expected[0], Stage.DOT) if self._expected else Stage.DATA
        whole = sent is not None and self._dot_may_have_left()
        self._making.stop()
        self._transport.abort()
        self._owner.closed(self)
        if sent is not None and whole:
            self._owner.ambiguous(self, sent, reply)
        elif sent is not None:
            self._owner.interrupted(self, sent, Stage.BODY, reply)
        if attempt is not None and blame and sent is None:
            self._owner.interrupted(self, attempt, stage, reply)
        elif attempt is not None:
            self._owner.displaced(self, attempt, reply)

"""One connection to a relay: the SMTP dialogue, pipelined where the relay allows it (RFC 2920).

In steady state one write carries `body . MAIL RCPT DATA`: the body of one email and the envelope of the next, so an
email costs one round trip. At most one body is out at a time, and it is always the oldest thing unanswered; so a lost
connection makes exactly that email ambiguous.

There are no tasks, timers or futures per email: bytes arrive, replies pair with the steps in `_expected`, and at the
end of each chunk of bytes `_pump` writes whatever may be written now. Replies that nobody asked for therefore never
pair with a command that was written after them.
"""

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Container

from services.sender.smtp.attempt import Attempt
from services.sender.smtp.config import EngineConfig
from services.sender.smtp.contract import Job, Stage
from services.sender.smtp.dialogue import ENVELOPE, STAGES, Owner, Step
from services.sender.smtp.establish import Session
from services.sender.smtp.replies import BadReplyError, Reply, ReplyReader

SURELY_BODY_BYTES = 4096  # more than this in the transport's buffer is more than an envelope: the dot has not left


class Connection(asyncio.Protocol):
    """Takes over an established transport and works for `owner` until it is closed."""

    def __init__(self, owner: Owner, relay: str, session: Session, config: EngineConfig, most_emails: int) -> None:
        self.relay = relay
        self.smtputf8 = session.smtputf8
        self.pipelining = session.pipelining
        self.delivered = 0
        self.closed = False
        self.stalled = False  # it waits unusually long
        self.retiring = False  # it takes no further email
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._transport = session.transport
        self._emails_left = most_emails
        self._reader = ReplyReader()
        self._expected: deque[Step] = deque()  # what the coming replies answer, oldest first
        self._unasked: list[tuple[Step, bytes]] = []  # without PIPELINING: commands that wait for the reply before
        self._sent: Attempt | None = None  # its body is out
        self._open: Attempt | None = None  # its envelope is out, its body is not
        self._displaced: Attempt | None = None  # its envelope was out here, and it may have gone elsewhere
        self._envelope_busy = False  # replies to an envelope are outstanding, whether or not `_open` still wants them
        self._go_ahead = False  # 354 has come for `_open`
        self._permitted = False  # an awaited `may_send_body` has said yes
        self._refused: Step | None = None  # the step of the envelope that was refused first
        self._needs_rset = False
        self._waiting: asyncio.Future[object] | None = None  # a body or a permission that takes a while
        self._soft_seconds = config.email_soft_seconds
        self._hard_seconds = config.email_hard_seconds
        self._limits = {
            Step.RSET: config.mail_seconds,
            Step.MAIL: config.mail_seconds,
            Step.RCPT: config.rcpt_seconds,
            Step.DATA: config.data_seconds,
            Step.DOT: math.inf,  # all of the email's own time
            Step.LONE_DOT: config.data_seconds,
            Step.QUIT: config.quit_seconds,
        }
        self._spoke_at = 0.0  # when the oldest thing unanswered was written
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
            self._stop_waiting()
            if self._sent is None:
                self._withdraw(attempt)
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
                self._stop_waiting()
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
                self._answer(self._expected.popleft(), reply)
            else:
                # 421 may come at any time (RFC 5321, 3.8). Anything else: replies and commands no longer pair.
                self._end(reply, blame=reply.code != 421)
            if self.closed:
                return
        self._pump()

    def eof_received(self) -> bool:
        """The relay has closed its side."""
        self._end(Reply(0, b"the relay closed the connection"), blame=True)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport is gone."""
        self._end(Reply(0, f"the connection was lost: {exc or 'closed'}".encode()), blame=True)

    # replies

    def _answer(self, step: Step, reply: Reply) -> None:
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
            elif self._refused is not None:
                # A recipient accepted for a sender it refused: a body could go anywhere, even a lone dot.
                self._out_of_step(step, reply)
        elif step is Step.LONE_DOT:
            self._envelope_over()
        elif step is Step.QUIT or code >= 400:  # RSET cannot be refused (RFC 5321, 4.1.1.5)
            self._end(reply, blame=step is Step.RSET)

    def _answer_dot(self, reply: Reply) -> None:
        attempt = self._sent
        if attempt is None or (reply.code < 300 and not self._dot_may_have_left()):
            self._out_of_step(Step.DOT, reply)
            return
        self._sent = None
        if reply.code < 300:
            self.delivered += 1
            self._owner.accepted(self, attempt, reply, self.quiet_since - self._spoke_at)
        else:
            self._owner.refused(self, attempt, Stage.DOT, reply)

    def _answer_data(self, reply: Reply) -> None:
        if reply.code >= 400:
            if self._refused is None:
                self._refuse(Step.DATA, reply)
            self._envelope_over()
        elif reply.code != 354:
            self._out_of_step(Step.DATA, reply)
        elif self._refused is not None:
            self._expected.append(Step.LONE_DOT)
            self._transport.write(b".\r\n")
        elif self._open is not None:
            self._go_ahead = True
        elif self._displaced is not None and self._owner.reclaimed(self._displaced):
            self._open, self._go_ahead = self._displaced, True
            self._prepare(self._displaced)
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
        if self._refused is not None:
            return
        self._refused = step
        self._needs_rset = True
        attempt, self._open = self._open, None
        self._stop_waiting()
        if self._unasked:  # one by one: the rest is never asked
            self._unasked.clear()
            self._envelope_over()
        if attempt is not None:
            self._owner.refused(self, attempt, STAGES[step], reply)

    def _envelope_over(self) -> None:
        self._envelope_busy = False
        self._refused = None

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
            self._go_ahead = self._permitted = self._envelope_busy = False
            self._expected.append(Step.DOT)
            out += (body, b".\r\n")
        fresh = None
        if self._unasked:
            if self._expected or self._too_late(self._open):
                return
            self._ask_next(out)
        elif not self._envelope_busy and (self.pipelining or not self._expected):
            fresh = self._begin(out)
        if out:
            if silent:  # a body always leaves in silence: everything before it has been answered
                self.quiet_since = self._spoke_at = self._loop.time()
            self._transport.writelines(out)
        if fresh is not None:
            self._prepare(fresh)
        elif not (self._expected or self._open):
            self._nothing_to_do()

    def _begin(self, out: list[bytes]) -> Attempt | None:
        """Take an email and put its envelope, or the first command of it, into `out`."""
        if self.retiring or self._emails_left == 0:
            return None
        attempt = self._owner.next_attempt(self)
        if attempt is None:
            return None
        self._emails_left -= 1
        self._open, self._displaced = attempt, None
        self._envelope_busy = True
        if self.pipelining:
            if self._needs_rset:
                out.append(b"RSET\r\n")
                self._expected.append(Step.RSET)
            out.append(attempt.envelope)
            self._expected.extend(ENVELOPE)
        else:
            self._unasked = list(zip(ENVELOPE, attempt.commands(), strict=True))
            if self._needs_rset:
                self._unasked.insert(0, (Step.RSET, b"RSET\r\n"))
            self._ask_next(out)
        self._needs_rset = False
        return attempt

    def _ask_next(self, out: list[bytes]) -> None:
        step, command = self._unasked.pop(0)
        self._expected.append(step)
        out.append(command)

    def _nothing_to_do(self) -> None:
        if not (self.retiring or self._emails_left == 0):
            self._owner.idle(self)
            return
        self.retiring = True
        self._expected.append(Step.QUIT)
        self.quiet_since = self._loop.time()
        self._transport.write(b"QUIT\r\n")

    def _prepare(self, attempt: Attempt) -> None:
        """Have the body made while the relay looks at the envelope."""
        if attempt.body is not None:
            return
        try:
            body = attempt.job.body()
        except Exception as error:  # noqa: BLE001 - whatever the job raises, it must be reported, and once
            self._unmade(attempt, error)
            return
        if isinstance(body, bytes):
            attempt.body = body
        else:
            self._wait(attempt, body)

    def _body_to_send(self) -> bytes | None:
        """The body, if it is made and may leave at this instant."""
        attempt = self._open
        if attempt is None or attempt.body is None or self._waiting is not None or self._too_late(attempt):
            return None
        if self._permitted:
            return attempt.body
        try:
            permission = attempt.job.may_send_body()
        except Exception as error:  # noqa: BLE001
            self._unmade(attempt, error)
            return None
        if permission is True:
            return attempt.body
        if permission is False:
            self._withdraw(attempt)
        else:
            self._wait(attempt, permission)
        return None

    def _too_late(self, attempt: Attempt | None) -> bool:
        """Past its soft limit an email begins no further step. Ends the connection, which is in the middle of it."""
        if attempt is None or self._loop.time() - attempt.started <= self._soft_seconds:
            return False
        self._end(Reply(0, b"too late for the next step"), blame=True)
        return True

    def _wait(self, attempt: Attempt, promise: Awaitable[object]) -> None:
        self._waiting = asyncio.ensure_future(promise)
        self._waiting.add_done_callback(lambda future: self._arrived(attempt, future))

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            waiting.cancel()

    def _arrived(self, attempt: Attempt, future: asyncio.Future[object]) -> None:
        error = asyncio.CancelledError() if future.cancelled() else future.exception()
        if future is not self._waiting:
            return  # the connection or the email has moved on
        self._waiting = None
        if error is not None:
            self._unmade(attempt, error)
        elif isinstance(result := future.result(), bytes):
            attempt.body = result
            self._pump()
        elif result is True:
            self._permitted = True
            self._pump()
        else:
            self._withdraw(attempt)

    def _withdraw(self, attempt: Attempt) -> None:
        """After a 354 nothing but a body can follow; so the connection has to go."""
        self._open = None
        self._owner.withdrawn(self, attempt)
        self._end(Reply(0, b"an email was withdrawn"), blame=False)

    def _unmade(self, attempt: Attempt, error: BaseException) -> None:
        self._open = None
        self._owner.unmade(self, attempt, error)
        if self._go_ahead:
            self._end(Reply(0, b"an email could not be made"), blame=False)

    # ending

    def _limit(self) -> float:
        """Seconds that the present silence may last."""
        oldest = self._sent or self._open
        phase = self._limits[self._expected[0]] if self._expected else math.inf
        if oldest is None:
            return min(phase, self._hard_seconds)
        return min(phase, oldest.started + self._hard_seconds - self.quiet_since)

    def _dot_may_have_left(self) -> bool:
        return self._transport.get_write_buffer_size() <= SURELY_BODY_BYTES

    def _end(self, reply: Reply, *, blame: bool) -> None:
        """Drop the connection; report what was in flight. `blame`: whoever's turn it was is under suspicion.

        Never `close()`: that may still deliver what is in the buffer."""
        if self.closed:
            return
        self.closed = True
        sent, attempt = self._sent, self._open
        self._sent = self._open = None
        stage = STAGES.get(self._expected[0], Stage.DOT) if self._expected else Stage.DATA
        whole = sent is not None and self._dot_may_have_left()
        self._stop_waiting()
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

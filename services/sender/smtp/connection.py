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
from collections.abc import Awaitable
from enum import Enum
from typing import Protocol

from services.sender.smtp.attempt import Attempt
from services.sender.smtp.config import EngineConfig
from services.sender.smtp.contract import Stage
from services.sender.smtp.establish import Session
from services.sender.smtp.replies import BadReplyError, Reply, ReplyReader


class Step(Enum):
    """What a reply answers. `stage` is how it is reported."""

    RSET = "RSET"
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    DOT = "DOT"
    LONE_DOT = "LONE_DOT"  # ends a DATA that has no recipient
    QUIT = "QUIT"


STAGES = {Step.MAIL: Stage.MAIL, Step.RCPT: Stage.RCPT, Step.DATA: Stage.DATA, Step.DOT: Stage.DOT}
ENVELOPE = (Step.MAIL, Step.RCPT, Step.DATA)


class Owner(Protocol):
    """What a connection needs from the pool. Every attempt it was given comes back through exactly one of these."""

    def next_attempt(self, connection: "Connection") -> Attempt | None:
        """The next email for this connection, or None."""

    def accepted(self, connection: "Connection", attempt: Attempt, reply: Reply, dot_seconds: float) -> None:
        """250 after the final dot."""

    def refused(self, connection: "Connection", attempt: Attempt, stage: Stage, reply: Reply) -> None:
        """4xx or 5xx, at `stage`."""

    def ambiguous(self, connection: "Connection", attempt: Attempt, reply: Reply) -> None:
        """Body bytes left, and no reply will come. `reply` says why; its code is 0 unless the relay gave one."""

    def interrupted(
        self, connection: "Connection", attempt: Attempt, stage: Stage | None, reply: Reply, at_fault: bool
    ) -> None:
        """The connection ended before the email's body. `stage`: the step whose reply did not come, None if it was
        not this email's turn. `at_fault`: the relay or the email is to blame, not we."""

    def withdrawn(self, connection: "Connection", attempt: Attempt) -> None:
        """`may_send_body` said no."""

    def unmade(self, connection: "Connection", attempt: Attempt, error: BaseException) -> None:
        """The job could not make its body, or could not say whether it may leave."""

    def idle(self, connection: "Connection") -> None:
        """Nothing is outstanding and there was no email to take."""

    def closed(self, connection: "Connection") -> None:
        """The transport is gone or going."""


class Connection(asyncio.Protocol):
    """Takes over an established transport. See the module for how it works."""

    def __init__(self, owner: Owner, relay: str, session: Session, config: EngineConfig, most_emails: int) -> None:
        self.relay = relay
        self.smtputf8 = session.smtputf8
        self.delivered = 0
        self.closed = False
        self.stalled = False
        self._owner = owner
        self._config = config
        self._loop = asyncio.get_running_loop()
        self._transport = session.transport
        self._pipelining = session.pipelining
        self._emails_left = most_emails
        self._reader = ReplyReader()
        self._expected: deque[Step] = deque()
        self._unsent: list[tuple[Step, bytes]] = []  # without PIPELINING: commands that wait for the reply before
        self._sent: Attempt | None = None  # its body is out
        self._open: Attempt | None = None  # its envelope is out, its body is not
        self._envelope_busy = False  # replies to an envelope are outstanding, whether or not `_open` still wants them
        self._go_ahead = False  # 354 has come for `_open`
        self._permitted = False  # an awaited `may_send_body` has said yes
        self._refused: Step | None = None
        self._needs_rset = False
        self._retiring = False
        self._waiting: asyncio.Future[object] | None = None  # a body or a permission that takes a while
        self._limits = {
            Step.RSET: config.mail_seconds,
            Step.MAIL: config.mail_seconds,
            Step.RCPT: config.rcpt_seconds,
            Step.DATA: config.data_seconds,
            Step.DOT: math.inf,
            Step.LONE_DOT: config.data_seconds,
            Step.QUIT: config.quit_seconds,
        }
        self._written_at = 0.0
        self.opened_at = self.quiet_since = self._loop.time()
        session.transport.set_protocol(self)

    @property
    def in_flight(self) -> int:
        """Emails on this connection that have no verdict yet: at most two."""
        return (self._sent is not None) + (self._open is not None)

    @property
    def is_idle(self) -> bool:
        """Nothing outstanding, nothing on its way out, and it may take an email."""
        return not (self.closed or self._retiring or self._expected or self._open or self._reader.mid_reply)

    def offer(self) -> None:
        """There may be work: take it if there is room."""
        self._pump()

    def retire(self) -> None:
        """Take no further email; QUIT once nothing is outstanding."""
        self._retiring = True
        self._pump()

    def abort(self, why: str, *, at_fault: bool = False) -> None:
        """Drop the connection now. Never `close()`: that may still deliver what is in the buffer."""
        self._end(Reply(0, why.encode()), at_fault=at_fault)

    def check(self, now: float, stall_seconds: float) -> None:
        """Look at the clock: end what has waited too long, and mark what waits unusually long as stalled."""
        if self.closed or not (self._expected or self._open or self._reader.mid_reply):
            return
        waited = now - self.quiet_since
        limit = self._limit()
        if waited >= limit:
            self.abort(f"no reply within {waited:.0f} s", at_fault=True)
        elif waited > stall_seconds and not self.stalled:
            self.stalled = True
            if self._sent is not None and self._open is not None:
                # Its envelope is out, its body will not be: another connection can carry it now.
                attempt, self._open = self._open, None
                self._owner.interrupted(
                    self, attempt, None, Reply(0, b"the email before it waits for its reply"), at_fault=False
                )

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        """Pair replies with steps, then write what may be written."""
        if self.closed:
            return
        try:
            replies = self._reader.feed(data)
        except BadReplyError as error:
            self._end(Reply(0, f"not SMTP: {error}".encode()), at_fault=True)
            return
        if replies:
            self.quiet_since = self._loop.time()
            self.stalled = False
        for reply in replies:
            if self._expected:
                self._answer(self._expected.popleft(), reply)
            else:
                self._unsolicited(reply)
            if self.closed:
                return
        self._pump()

    def eof_received(self) -> bool:
        """The relay has closed its side."""
        self._end(Reply(0, b"the relay closed the connection"), at_fault=True)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport is gone."""
        self._end(Reply(0, f"the connection was lost: {exc or 'closed'}".encode()), at_fault=True)

    # replies

    def _answer(self, step: Step, reply: Reply) -> None:
        code = reply.code
        if code == 421:
            self._farewell(step, reply)
        elif step is Step.DOT:
            self._answer_dot(reply)
        elif step is Step.DATA:
            self._answer_data(reply)
        elif 300 <= code < 400:
            self._end(Reply(0, f"{code} in reply to {step.value}".encode()), at_fault=True)
        elif step in ENVELOPE:
            if code >= 400:
                self._refuse(step, reply)
            elif self._refused is Step.MAIL:
                # It takes a recipient for a sender it refused. A body could go anywhere, a lone dot too.
                self._end(Reply(0, b"a recipient accepted without a sender"), at_fault=True)
        elif step is Step.LONE_DOT:
            self._envelope_over()
        elif step is Step.QUIT or code >= 400:  # RSET cannot be refused (RFC 5321, 4.1.1.5)
            self._end(reply, at_fault=False)

    def _answer_dot(self, reply: Reply) -> None:
        attempt = self._sent
        if attempt is None or 300 <= reply.code < 400:
            self._end(Reply(0, f"{reply.code} in reply to the final dot".encode()), at_fault=True)
            return
        self._sent = None
        if reply.code < 300:
            self.delivered += 1
            self._owner.accepted(self, attempt, reply, self.quiet_since - self._written_at)
        else:
            self._owner.refused(self, attempt, Stage.DOT, reply)

    def _answer_data(self, reply: Reply) -> None:
        if reply.code >= 400:
            if self._refused is None:
                self._refuse(Step.DATA, reply)
            self._envelope_over()
        elif reply.code != 354:
            self._end(Reply(0, f"{reply.code} in reply to DATA".encode()), at_fault=True)
        elif self._refused is not None:
            self._expected.append(Step.LONE_DOT)
            self._transport.write(b".\r\n")
        elif self._open is None:
            # The email was moved elsewhere. A lone dot would deliver an empty one in its place.
            self._end(Reply(0, b"its email was withdrawn"), at_fault=False)
        else:
            self._go_ahead = True

    def _refuse(self, step: Step, reply: Reply) -> None:
        if self._refused is not None:
            return
        self._refused = step
        self._needs_rset = True
        attempt, self._open = self._open, None
        if self._unsent:  # asked one by one: the rest is never asked
            self._unsent.clear()
            self._envelope_over()
        if attempt is not None:
            self._owner.refused(self, attempt, STAGES[step], reply)

    def _envelope_over(self) -> None:
        self._envelope_busy = False
        self._refused = None

    def _farewell(self, step: Step, reply: Reply) -> None:
        if step is Step.DOT and self._sent is not None:
            attempt, self._sent = self._sent, None
            self._owner.refused(self, attempt, Stage.DOT, reply)
        elif step in ENVELOPE and self._open is not None:
            attempt, self._open = self._open, None
            self._owner.refused(self, attempt, STAGES[step], reply)
        self._end(reply, at_fault=False)

    def _unsolicited(self, reply: Reply) -> None:
        # 421 may come at any time (RFC 5321, 3.8); anything else means that replies and commands no longer pair.
        self._end(reply, at_fault=reply.code != 421)

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
        if self._unsent:
            if not self._expected:
                self._ask_next(out)
        elif not self._envelope_busy and (self._pipelining or not self._expected):
            fresh = self._begin(out)
        if out:
            now = self._loop.time()
            if silent:
                self.quiet_since = now
            self._written_at = now
            self._transport.write(b"".join(out))
        if fresh is not None:
            self._prepare(fresh)
        elif not (self._expected or self._open):
            self._nothing_to_do()

    def _begin(self, out: list[bytes]) -> Attempt | None:
        """Take an email and put its envelope, or the first command of it, into `out`."""
        if self._retiring or self._emails_left == 0:
            return None
        attempt = self._owner.next_attempt(self)
        if attempt is None:
            return None
        self._emails_left -= 1
        self._open = attempt
        self._envelope_busy = True
        if self._pipelining:
            if self._needs_rset:
                out.append(b"RSET\r\n")
                self._expected.append(Step.RSET)
            out.append(attempt.envelope)
            self._expected.extend(ENVELOPE)
        else:
            self._unsent = list(zip(ENVELOPE, attempt.commands(), strict=True))
            if self._needs_rset:
                self._unsent.insert(0, (Step.RSET, b"RSET\r\n"))
            self._ask_next(out)
        self._needs_rset = False
        return attempt

    def _ask_next(self, out: list[bytes]) -> None:
        step, command = self._unsent.pop(0)
        self._expected.append(step)
        out.append(command)

    def _nothing_to_do(self) -> None:
        if self._retiring or self._emails_left == 0:
            self._retiring = True
            self._expected.append(Step.QUIT)
            self.quiet_since = self._loop.time()
            self._transport.write(b"QUIT\r\n")
        self._owner.idle(self)

    def _prepare(self, attempt: Attempt) -> None:
        """Have the body made while the relay looks at the envelope."""
        if attempt.body is not None:
            return
        try:
            body = attempt.job.body()
        except Exception as error:  # noqa: BLE001  whatever the job raises, it must be reported, and once
            self._unmade(attempt, error)
            return
        if isinstance(body, bytes):
            attempt.body = body
        else:
            self._wait(attempt, body)

    def _body_to_send(self) -> bytes | None:
        """The body, if it is made and may leave at this instant."""
        attempt = self._open
        if attempt is None or attempt.body is None or self._waiting is not None:
            return None
        if self.quiet_since - attempt.started > self._config.email_soft_seconds:
            self._end(Reply(0, b"the email's soft limit is over"), at_fault=True)
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

    def _wait(self, attempt: Attempt, promise: Awaitable[object]) -> None:
        self._waiting = asyncio.ensure_future(promise)
        self._waiting.add_done_callback(lambda future: self._arrived(attempt, future))

    def _arrived(self, attempt: Attempt, future: asyncio.Future[object]) -> None:
        error = None if future.cancelled() else future.exception()
        if future is not self._waiting:
            return
        self._waiting = None
        if future.cancelled() or error is not None:
            self._unmade(attempt, error or asyncio.CancelledError())
        elif isinstance(result := future.result(), bytes):
            attempt.body = result
            self._pump()
        elif result is True:
            self._permitted = True
            self._pump()
        else:
            self._withdraw(attempt)

    def _withdraw(self, attempt: Attempt) -> None:
        self._open = None
        self._owner.withdrawn(self, attempt)
        self._end(Reply(0, b"withdrawn"), at_fault=False)

    def _unmade(self, attempt: Attempt, error: BaseException) -> None:
        self._open = None
        self._owner.unmade(self, attempt, error)
        if self._go_ahead:
            self._end(Reply(0, b"no body"), at_fault=False)

    # ending

    def _limit(self) -> float:
        """Seconds that the present silence may last."""
        oldest = self._sent or self._open
        email = math.inf if oldest is None else oldest.started + self._config.email_hard_seconds - self.quiet_since
        phase = self._limits[self._expected[0]] if self._expected else math.inf
        return min(email, phase)

    def _end(self, reply: Reply, *, at_fault: bool) -> None:
        if self.closed:
            return
        self.closed = True
        sent, attempt = self._sent, self._open
        self._sent = self._open = None
        stage = None if sent else STAGES.get(self._expected[0], Stage.MAIL) if self._expected else Stage.DATA
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            waiting.cancel()
        self._transport.abort()
        self._owner.closed(self)
        if sent is not None:
            self._owner.ambiguous(self, sent, reply)
        if attempt is not None:
            self._owner.interrupted(self, attempt, stage, reply, at_fault)

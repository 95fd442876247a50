"""One connection to a relay: its transport, its clock, and the emails that are on it.

In steady state one write carries `body . MAIL RCPT DATA`: the body of one email and the envelope of the next. At most
one body is out at a time, and it is always the oldest thing unanswered, so a lost connection makes exactly that email
ambiguous.

There are no tasks, timers or futures per email. Bytes arrive, the dialogue makes events of them, and at the end of each
chunk `_pump` writes what may be written now. So a reply to nothing never pairs with a command that is written later.
"""

import asyncio
import math
from collections.abc import Container
from typing import Protocol, cast

from services.sender.smtp.attempt import Attempt, Failure
from services.sender.smtp.config import EngineConfig
from services.sender.smtp.contract import Body, Job
from services.sender.smtp.dialogue import DOT, QUIT, Dialogue, Step
from services.sender.smtp.making import Making
from services.sender.smtp.outbox import Outbox
from shared.relays.replies import Reply, Stage
from shared.relays.session import Session

SURELY_BODY_BYTES = 4096  # more than this in the transport's buffer is more than an envelope: the dot has not left

WITHDRAWN = Reply(0, b"withdrawn before its body")


class Owner(Protocol):
    """Gives a connection its emails, and takes each back once, by `accepted` or `failed`."""

    def next_attempt(self, connection: "Connection") -> Attempt | None:
        """The next email for this connection, or None."""

    def accepted(self, connection: "Connection", attempt: Attempt, reply: Reply, dot_seconds: float) -> None:
        """2xx after the final dot, `dot_seconds` after the body was written."""

    def failed(self, connection: "Connection", attempt: Attempt, failure: Failure, stage: Stage, reply: Reply) -> None:
        """It was not accepted. `reply` says why; its code is 0 unless the relay gave one."""

    def reclaimed(self, attempt: Attempt) -> bool:
        """The relay has caught up: whether a DISPLACED email is given back to its connection, as if it had not failed.

        False if another connection has it."""

    def idle(self, connection: "Connection") -> None:
        """Nothing is outstanding, and there was no email to take."""

    def closed(self, connection: "Connection") -> None:
        """The transport is gone, or going. Called before the emails in flight come back."""


class Connection:
    """Takes over an established transport, and works for `owner` until it is closed. Times are the event loop's.

    An asyncio.Protocol that does not inherit from it: a compiled class is fast only if its bases are compiled."""

    def __init__(
        self,
        owner: Owner,
        relay: str,
        session: Session,
        config: EngineConfig,
        most_emails: int,
        *,
        verp: bool = False,
    ) -> None:
        #: The relay's name.
        self.relay = relay
        self._verp = verp
        self.pipelining = session.pipelining
        self.smtputf8 = session.smtputf8
        #: Whether the relay has accepted an email on it.
        self.delivered = False
        #: It waits unusually long for a reply.
        self.stalled = False
        #: It takes no further email.
        self.retiring = False
        self.closed = False
        self._owner = owner
        self._transport = session.transport
        self._outbox = Outbox(session.transport)
        self._dialogue = Dialogue(session.pipelining)
        self._making = Making(self)
        self._size_limit = session.size_limit
        self._emails_left = most_emails
        self._config = config
        self._sent: Attempt | None = None  # its body is out
        self._open: Attempt | None = None  # its envelope is out, its body is not
        self._displaced: Attempt | None = None  # its envelope is out, and another connection may have it by now
        self._hearing = False  # in the middle of events: nothing is written before the last of them
        self._loop = asyncio.get_running_loop()
        self._spoke_at = 0.0  # when the oldest thing unanswered was written
        self.opened_at = self._loop.time()
        #: When the latest reply came, or when something was written of which nothing was unanswered before.
        self.quiet_since = self.opened_at
        session.transport.set_protocol(cast(asyncio.Protocol, self))

    @property
    def in_flight(self) -> int:
        """Emails on this connection that have no verdict yet: at most two."""
        return (self._sent is not None) + (self._open is not None)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is outstanding and it may take an email."""
        return not (self.closed or self.retiring or self._open) and self._dialogue.idle

    def offer(self) -> None:
        """There may be an email: take it if there is room."""
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
                self._give_back(attempt, Failure.WITHDRAWN, Stage.DATA, WITHDRAWN)

    def check(self, now: float, stall_seconds: float) -> None:
        """Look at the clock: end what has waited too long, and note what waits unusually long."""
        if self.closed or (self._open is None and self._dialogue.idle):
            return
        waited = now - self.quiet_since
        awaiting = self._dialogue.awaiting
        if waited >= self._limit(awaiting):
            # If no reply is due, it is our own side that took too long.
            self._end(Reply(0, f"no reply within {waited:.0f} s".encode()), blame=awaiting is not None)
        elif waited > stall_seconds and awaiting is not None:  # else it is our own side that takes its time
            self.stalled = True
            if self._sent is not None and self._open is not None:
                # Its envelope is out, its body is not: another connection can carry it.
                self._displaced = self._open
                self._making.stop()
                reply = Reply(0, b"the email before it waits for its reply")
                self._give_back(self._open, Failure.DISPLACED, Stage.DATA, reply)

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        """Make events of bytes, then write what may be written."""
        dialogue = self._dialogue
        before = dialogue.replies
        events = dialogue.receive_data(data)
        if dialogue.replies != before:
            self.quiet_since = self._loop.time()
            self.stalled = False
        if events:
            self._hearing = True
            for event, stage, reply in events:
                if self.closed:
                    return
                if event == "accepted":
                    self._on_accepted(reply)
                elif event == "go ahead":
                    self._on_go_ahead()
                elif event == "refused":
                    self._on_refused(stage, reply)
                else:
                    self._end(reply, blame=event == "broken")
            self._hearing = False
        self._pump()

    def pause_writing(self) -> None:
        """The transport holds enough: a long body leaves bit by bit, so that many of them need little memory."""
        self._outbox.pause()

    def resume_writing(self) -> None:
        """The transport has room again."""
        if not self.closed:
            self._outbox.resume()

    def eof_received(self) -> bool:
        """The relay has closed its side."""
        self._end(Reply(0, b"the relay closed the connection"), blame=True)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport is gone."""
        self._end(Reply(0, f"the connection was lost: {exc or 'closed'}".encode()), blame=True)

    # events

    def _on_accepted(self, reply: Reply) -> None:
        if self._sent is None or not self._dot_may_have_left():
            self._end(Reply(0, b"out of step: accepted before the final dot had left"), blame=True)
            return
        self.delivered = True
        accepted, self._sent = self._sent, None
        self._owner.accepted(self, accepted, reply, self.quiet_since - self._spoke_at)

    def _on_go_ahead(self) -> None:
        if self._open is not None:
            return
        if self._displaced is not None and self._owner.reclaimed(self._displaced):
            self._open = self._displaced
            self._making.begin(self._open)
        else:
            # Its email has gone elsewhere, and a lone dot would deliver an empty one in its place.
            self._end(Reply(0, b"its email went elsewhere"), blame=False)

    def _on_refused(self, stage: Stage, reply: Reply) -> None:
        if stage is Stage.DOT:
            attempt, self._sent = self._sent, None
        else:
            attempt, self._open = self._open, None
            self._making.stop()
        if attempt is not None:
            self._owner.failed(self, attempt, Failure.REFUSED, stage, reply)

    # writing

    def _pump(self) -> None:
        dialogue = self._dialogue
        if self.closed or self._hearing or not dialogue.may_write:
            return
        silent = dialogue.awaiting is None
        if dialogue.body_due:
            body = self._body_to_send()
            if body is None:
                return
            self._sent, self._open = self._open, None
            dialogue.send_body(body)
            if self._sent is not None and self._sent.job.is_timed:
                self._write(silent)
                silent = False
        fresh = None
        if dialogue.command_due:
            if self._too_late(self._open):
                return
            dialogue.ask()
        elif dialogue.may_begin:
            fresh = self._begin()
        self._write(silent)
        if fresh is not None:
            self._making.begin(fresh)
        elif self._open is None and dialogue.awaiting is None:
            self._nothing_to_do()

    def _write(self, silent: bool) -> None:
        out = self._dialogue.data_to_send()
        if out:
            if silent:  # a body always leaves in silence: everything before it has been answered
                self.quiet_since = self._spoke_at = self._loop.time()
            self._outbox.write(out)

    def _begin(self) -> Attempt | None:
        """Take an email and begin its envelope."""
        while not self.retiring and self._emails_left and (attempt := self._owner.next_attempt(self)) is not None:
            self._open, self._displaced = attempt, None
            if self._size_limit is not None:
                self._making.begin(attempt)
                if not self._has_open(attempt) or self._too_big(attempt):
                    continue
            self._emails_left -= 1
            self._dialogue.begin(attempt.envelope_for(verp=self._verp, sized=self._size_limit is not None))
            return attempt
        return None

    def _has_open(self, attempt: Attempt) -> bool:
        """Whether it is still on this connection: making its body may have failed."""
        return self._open is attempt

    def _body_to_send(self) -> Body | None:
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
        if self._size_limit is None or (size := attempt.body_size) <= self._size_limit:
            return False
        words = f"5.3.4 the message of {size} octets is larger than the relay takes ({self._size_limit})"
        self._give_back(attempt, Failure.TOO_BIG, Stage.MAIL, Reply(0, words.encode()))
        return True

    def _nothing_to_do(self) -> None:
        if not self.retiring and self._emails_left:
            self._owner.idle(self)
            return
        self.retiring = True
        self._dialogue.quit()
        self.quiet_since = self._loop.time()
        self._outbox.write(self._dialogue.data_to_send())

    def _too_late(self, attempt: Attempt | None) -> bool:
        """Past its soft limit an email begins no further step. Ends the connection, which is in the middle of it."""
        if attempt is None or self._loop.time() - attempt.started <= self._config.email_soft_seconds:
            return False
        self._end(Reply(0, b"too late for the next step"), blame=True)
        return True

    # making.Maker

    def made(self) -> None:
        """A body or a permission has come."""
        self._pump()

    def withdrawn(self, attempt: Attempt) -> None:
        """After 354 nothing but a body can follow, so the connection has to go."""
        self._give_back(attempt, Failure.WITHDRAWN, Stage.DATA, WITHDRAWN)
        self._end(Reply(0, b"an email was withdrawn"), blame=False)

    def unmade(self, attempt: Attempt, error: BaseException) -> None:
        """The email comes back. The connection has to go if its body was due."""
        words = f"the email could not be made: {type(error).__name__}: {error}"
        self._give_back(attempt, Failure.UNMADE, Stage.DATA, Reply(0, words.encode()))
        if self._dialogue.body_due:
            self._end(Reply(0, b"an email could not be made"), blame=False)

    # ending

    def _give_back(self, attempt: Attempt, failure: Failure, stage: Stage, reply: Reply) -> None:
        """The email whose body has not left."""
        self._open = None
        self._owner.failed(self, attempt, failure, stage, reply)

    def _limit(self, awaiting: Step | None) -> float:
        """Seconds that the present silence may last."""
        if awaiting is None or awaiting is DOT:
            seconds = math.inf  # only the email's own limit counts
        elif awaiting is QUIT:
            seconds = self._config.quit_seconds
        else:
            seconds = self._config.reply_seconds
        oldest = self._sent or self._open
        if oldest is None:
            return min(seconds, self._config.email_hard_seconds)
        return min(seconds, oldest.started + self._config.email_hard_seconds - self.quiet_since)

    def _dot_may_have_left(self) -> bool:
        return self._outbox.unsent <= SURELY_BODY_BYTES

    def _end(self, reply: Reply, *, blame: bool) -> None:
        """Drop the connection and give back the emails in flight. `blame`: the relay is to blame, or the email whose
        step it was.

        Never `close()`: that may still deliver what is in the buffer."""
        if self.closed:
            return
        self.closed = True
        sent, attempt = self._sent, self._open
        self._sent = self._open = None
        awaiting = self._dialogue.awaiting
        stage = Stage.DATA if awaiting is None else awaiting.stage
        whole = sent is not None and self._dot_may_have_left()
        self._making.stop()
        self._outbox.clear()
        self._transport.abort()
        self._owner.closed(self)
        if sent is not None:
            failure, at = (Failure.AMBIGUOUS, Stage.DOT) if whole else (Failure.INTERRUPTED, Stage.BODY)
            self._owner.failed(self, sent, failure, at, reply)
        if attempt is not None:
            failure = Failure.INTERRUPTED if blame and sent is None else Failure.DISPLACED
            self._owner.failed(self, attempt, failure, stage, reply)

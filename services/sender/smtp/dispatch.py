"""Brings emails and connections together, and decides what a failure means: another relay, or an outcome."""

import asyncio
from collections import Counter
from collections.abc import Container

from services.sender.smtp.attempt import Attempt, BadAddressError, Failure
from services.sender.smtp.config import EngineConfig
from services.sender.smtp.connection import Connection
from services.sender.smtp.contract import Job, Outcome, Source, Verdict
from services.sender.smtp.observe import Observer
from services.sender.smtp.pool import Pool
from services.sender.smtp.provider_rests import Rest
from services.sender.smtp.relay import Relay
from shared.faults.judge import judge
from shared.faults.meaning import Consequence, Fault
from shared.relays.replies import Reply, Stage

VERDICTS = {
    Consequence.RETRY: Verdict.TRANSIENT,
    Consequence.FAIL: Verdict.PERMANENT,
    Consequence.SUPPRESS: Verdict.PERMANENT,
    Consequence.HOLD: Verdict.HELD,
    Consequence.REROUTE: Verdict.HELD,
    Consequence.RECONNECT: Verdict.THROTTLED,
    Consequence.SLOW: Verdict.THROTTLED,
    Consequence.REST: Verdict.RELAY_FAULT,
    Consequence.PAUSE: Verdict.SENDER_REFUSED,
    Consequence.SPREAD: Verdict.PERMANENT,
}
"""The verdict on an email by what follows from the reply, if no other relay or connection does better."""


class Dispatch:
    """The owner of all connections: gives them emails, and reports each taken email exactly once."""

    def __init__(self, source: Source, pool: Pool, config: EngineConfig, observer: Observer) -> None:
        #: Set when the source was asked for an email and had none.
        self.hungry = asyncio.Event()
        #: Set when an email was reported during a drain, or a connection closed.
        self.news = asyncio.Event()
        #: No email is taken any more.
        self.draining = False
        self._source = source
        self._pool = pool
        self._observer = observer
        self._provider_of = config.providers.name_of
        self._soft_seconds = config.email_soft_seconds
        self._most_tries = len(pool.relays) + 1
        self._waiting: list[Attempt] = []  # emails that were taken and have no connection
        #: Accepted and not reported yet: the email, the relay, its reply, when it came, and the wait for it.
        self._accepted: list[tuple[Attempt, str, Reply, float, float]] = []
        self._offer_due = False
        self._loop = asyncio.get_running_loop()

    def offer(self) -> None:
        """Give emails to idle connections, and open more connections for emails that have none."""
        self._offer_due = False
        if self.draining:
            return
        self._place_waiting()
        relay = self._pool.current
        now = self._loop.time()
        if relay is None or self.hungry.is_set():
            return
        while relay is self._pool.current and (connection := relay.next_idle(now)) is not None:
            connection.offer()
            if self.hungry.is_set():
                return
        while relay.can_open(now) and (fresh := self._take(relay.name)) is not None:
            self._waiting.append(fresh)
            self._pool.open(relay)

    def offer_soon(self) -> None:
        """`offer`, after the running callback of the event loop: a connection may be in the middle of something."""
        if not self._offer_due and not self.draining:
            self._offer_due = True
            self._loop.call_soon(self.offer)

    def tick(self) -> None:
        """Time has passed: a relay may be available again, or allow another connection."""
        if self._waiting or not self.hungry.is_set():
            self.offer_soon()

    def stop_taking(self) -> None:
        """Take no more emails. Those without a connection are reported now."""
        self.draining = True
        self._place_waiting()

    def give_up(self, jobs: Container[Job], why: str) -> None:
        """Report those of these emails that have no connection."""
        self.report_accepted()
        for attempt in self._waiting[:]:
            if attempt.job in jobs:
                self._waiting.remove(attempt)
                reply = Reply(0, why.encode())
                self._finish(attempt, attempt.outcome(Verdict.NOT_STARTED, "", None, reply, self._loop.time()))

    # calls of connections

    def next_attempt(self, connection: Connection) -> Attempt | None:
        """An email that waits; else a fresh one, if emails are taken for this connection's relay."""
        if self.draining:
            return None
        for attempt in self._waiting[:] if self._waiting else ():
            preferred = self._pool.relay_avoiding(attempt.avoid)
            if preferred is not None and connection.relay == preferred.name:
                self._waiting.remove(attempt)
                if self._suits(connection, attempt):
                    return attempt
        relay = self._pool.current
        if relay is None or connection.relay != relay.name:
            return None
        while (fresh := self._take(relay.name)) is not None and not self._suits(connection, fresh):
            pass
        return fresh

    def accepted(self, connection: Connection, attempt: Attempt, reply: Reply, dot_seconds: float) -> None:
        """2xx after the final dot. It is reported after the running callbacks of the event loop, with all others that
        came then: connections are served first, and code that runs several times in a row runs twice as fast."""
        relay = self._pool.by_name[connection.relay]
        relay.accepted(dot_seconds)
        if relay.provider_rests:
            relay.provider_rests.accepted(attempt.provider)
        if not self._accepted:
            self._loop.call_soon(self.report_accepted)
        self._accepted.append((attempt, relay.name, reply, self._loop.time(), dot_seconds))

    def report_accepted(self) -> None:
        """Report the accepted emails that were not reported yet."""
        accepted, self._accepted = self._accepted, []
        for attempt, relay, reply, at, dot_seconds in accepted:
            self._observer.phase(relay, Stage.DOT, dot_seconds)
            self._finish(attempt, attempt.outcome(Verdict.ACCEPTED, relay, Stage.DOT, reply, at))

    def failed(self, connection: Connection, attempt: Attempt, failure: Failure, stage: Stage, reply: Reply) -> None:
        """It was not accepted here: try another relay or connection, or report it."""
        match failure:
            case Failure.REFUSED:
                self._refused(connection, attempt, stage, reply)
            case Failure.AMBIGUOUS:
                self._ambiguous(connection, attempt, stage, reply)
            case Failure.INTERRUPTED:
                self._interrupted(connection, attempt, stage, reply)
            case Failure.DISPLACED:
                self._displaced(connection, attempt, reply)
            case Failure.WITHDRAWN:
                self._report(connection, attempt, Verdict.NOT_STARTED, stage, reply)
            case Failure.TOO_BIG:
                self._unsuited(connection, attempt, reply)
            case Failure.UNMADE:  # spends an attempt, so that an email which can never be made comes to an end
                self._report(connection, attempt, Verdict.TRANSIENT, None, reply)

    def reclaimed(self, attempt: Attempt) -> bool:
        """Whether a displaced email still waits, and so can go back to its connection."""
        if attempt not in self._waiting:
            return False
        self._waiting.remove(attempt)
        return True

    def idle(self, connection: Connection) -> None:
        """A connection waits for an email."""
        self._pool.by_name[connection.relay].now_idle(connection)

    def closed(self, connection: Connection) -> None:
        """A connection is gone, and another may be needed."""
        self._pool.by_name[connection.relay].forget(connection)
        self.news.set()
        self.offer_soon()

    # calls of the pool

    def could_not_open(self, relay: Relay, stage: Stage, reply: Reply) -> None:
        """A connection could not be opened."""
        throttled = judge(stage, reply.code, reply.text).consequence is Consequence.SLOW
        relay.could_not_open(stage, reply, self._loop.time(), throttled=throttled)

    # failures

    def _refused(self, connection: Connection, attempt: Attempt, stage: Stage, reply: Reply) -> None:
        """The relay said no: decide whose fault that is, and whether another relay or connection may do better."""
        judgement = judge(stage, reply.code, reply.raw.decode("utf-8", "replace"))
        relay, now = self._pool.by_name[connection.relay], self._loop.time()
        if judgement.suspect_provider and stage is not Stage.MAIL:
            relay.refused_by(attempt.provider, attempt.job.rcpt_to, stage, reply, now)
        verdict = VERDICTS[judgement.consequence]
        if judgement.fault in (Fault.RELAY, Fault.CONNECTION):
            throttled = verdict is Verdict.THROTTLED
            if relay.refused(attempt.job.rcpt_to, stage, reply, now, throttled=throttled):
                verdict = Verdict.TRANSIENT
            self._pool.choose()
        again = verdict is Verdict.HELD or (judgement.fault is Fault.RELAY and stage is not Stage.DOT)
        if again:
            attempt.avoid |= {relay.name}
        elif judgement.fault is Fault.CONNECTION:
            attempt.closed_on += 1
            again = attempt.closed_on == 1
            if not again and stage is not Stage.MAIL and relay.available(now):
                verdict = Verdict.TRANSIENT
        outcome = attempt.outcome(verdict, relay.name, stage, reply, now, judgement.consequence)
        if again and verdict is not Verdict.TRANSIENT:
            self._try_again(attempt, outcome)
        else:
            self._finish(attempt, outcome)

    def _ambiguous(self, connection: Connection, attempt: Attempt, stage: Stage, reply: Reply) -> None:
        if not self.draining:
            self._pool.by_name[connection.relay].at_fault(attempt.job.rcpt_to, stage, reply, self._loop.time())
            self._pool.choose()
        self._report(connection, attempt, Verdict.AMBIGUOUS, stage, reply)

    def _interrupted(self, connection: Connection, attempt: Attempt, stage: Stage, reply: Reply) -> None:
        """Another try shows whether the relay or the email is at fault."""
        relay, now = self._pool.by_name[connection.relay], self._loop.time()
        verdict = Verdict.RELAY_FAULT if stage is Stage.MAIL and not connection.pipelining else Verdict.TRANSIENT
        if self.draining:
            verdict = Verdict.NOT_STARTED
        elif not connection.delivered:
            relay.at_fault(attempt.job.rcpt_to, stage, reply, now)
            self._pool.choose()
        if self._pool.relay_avoiding(attempt.avoid | {relay.name}):
            attempt.avoid |= {relay.name}
        self._try_again(attempt, attempt.outcome(verdict, relay.name, stage, reply, now))

    def _displaced(self, connection: Connection, attempt: Attempt, reply: Reply) -> None:
        """Not the fault of this email: another connection takes it over."""
        if self.draining or self._late(attempt):
            self._report(connection, attempt, Verdict.NOT_STARTED, None, reply)
        else:
            self._waiting.append(attempt)
            self.offer_soon()

    def _report(
        self, connection: Connection, attempt: Attempt, verdict: Verdict, stage: Stage | None, reply: Reply
    ) -> None:
        self._finish(attempt, attempt.outcome(verdict, connection.relay, stage, reply, self._loop.time()))

    # emails

    def _take(self, relay: str) -> Attempt | None:
        """The next email of the source with usable addresses; those without are reported."""
        while True:
            job = self._source.take(relay)
            if job is None:
                self.hungry.set()
                return None
            try:
                return Attempt(job, self._loop.time(), self._provider_of(job.rcpt_to.rpartition("@")[2].lower()))
            except BadAddressError as error:
                outcome = Outcome(Verdict.PERMANENT, enhanced="5.1.3", reply=str(error))
                self._observer.attempt(job, outcome)
                self._source.done(job, outcome)

    def _place_waiting(self) -> None:
        """Find connections for waiting emails; report those that no relay can take now."""
        served: Counter[str] = Counter()  # emails per relay that a connection being opened will take
        for attempt in self._waiting[:]:
            relay = None if self.draining or self._late(attempt) else self._pool.relay_avoiding(attempt.avoid)
            if attempt not in self._waiting:
                continue  # a connection has just taken it
            if relay is None:
                self._waiting.remove(attempt)
                self._give_up(attempt)
            elif (connection := relay.next_idle(self._loop.time())) is not None:
                connection.offer()
            elif served[relay.name] < relay.opening:
                served[relay.name] += 1
            elif relay.can_open(self._loop.time()):
                served[relay.name] += 1
                self._pool.open(relay)

    def _try_again(self, attempt: Attempt, failure: Outcome) -> None:
        """Use another relay or connection, unless tries, time or relays are used up."""
        attempt.failure = failure
        attempt.tries += 1
        self._observer.attempt(attempt.job, failure)
        if self.draining or attempt.tries >= self._most_tries or self._late(attempt):
            self._finish(attempt, failure)
        elif self._pool.relay_avoiding(attempt.avoid) is None:
            self._give_up(attempt)
        else:
            self._waiting.append(attempt)
            self.offer_soon()

    def _late(self, attempt: Attempt) -> bool:
        return self._loop.time() - attempt.started >= self._soft_seconds

    def _suits(self, connection: Connection, attempt: Attempt) -> bool:
        """Whether the relay can carry it now; if not, it goes to another relay, or is reported."""
        rests = self._pool.by_name[connection.relay].provider_rests
        if rests and (rest := rests.rest_of(attempt.provider, self._loop.time())) is not None:
            self._wait_for_provider(connection, attempt, rest)
            return False
        if connection.smtputf8 or not attempt.smtputf8:
            return True
        reply = Reply(0, b"5.6.7 the address needs SMTPUTF8, which no relay offers")
        self._unsuited(connection, attempt, reply)
        return False

    def _wait_for_provider(self, connection: Connection, attempt: Attempt, rest: Rest) -> None:
        """Its provider rests at this relay: another relay takes the email, else it waits."""
        attempt.avoid |= {connection.relay}
        now = self._loop.time()
        outcome = attempt.outcome(Verdict.HELD, connection.relay, rest.stage, rest.reply, now)
        self._try_again(attempt, outcome._replace(hold_seconds=rest.until - now))

    def _unsuited(self, connection: Connection, attempt: Attempt, reply: Reply) -> None:
        """This relay cannot carry the email, as `reply` (our own words) says. Another one, else the recipient fails."""
        attempt.avoid |= {connection.relay}
        now = self._loop.time()
        outcome = attempt.outcome(Verdict.PERMANENT, connection.relay, Stage.MAIL, reply, now, Consequence.FAIL)
        enhanced, _, _ = reply.text.partition(" ")
        self._try_again(attempt, outcome._replace(enhanced=enhanced))

    def _give_up(self, attempt: Attempt) -> None:
        """No relay can take it now. A lost connection then counts against the relay, not the recipient."""
        outcome = attempt.failure
        if outcome is None or (outcome.verdict is Verdict.TRANSIENT and self._pool.current is None):
            outcome = self._no_relay(attempt)
        self._finish(attempt, outcome)

    def _no_relay(self, attempt: Attempt) -> Outcome:
        now = self._loop.time()
        failed = next((relay for relay in self._pool.relays if relay.failure), None)
        if self.draining or self._pool.current is not None or failed is None or failed.failure is None:
            reply = Reply(0, b"no connection was free in time")
            return attempt.outcome(Verdict.NOT_STARTED, "", None, reply, now)
        verdict = Verdict.THROTTLED if failed.throttled_last else Verdict.RELAY_FAULT
        return attempt.outcome(verdict, failed.name, *failed.failure, now)

    def _finish(self, attempt: Attempt, outcome: Outcome) -> None:
        if outcome is not attempt.failure:  # that was observed when it happened
            self._observer.attempt(attempt.job, outcome)
        self._source.done(attempt.job, outcome)
        if self.draining:
            self.news.set()

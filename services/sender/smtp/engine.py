"""The delivery engine: connections pull emails from a source, relays fail over, every email gets one outcome."""

import asyncio
from collections.abc import Sequence

from services.sender.smtp.attempt import Attempt, BadAddressError
from services.sender.smtp.classify import classify
from services.sender.smtp.config import EngineConfig, RelayConfig
from services.sender.smtp.connection import Connection
from services.sender.smtp.contract import Outcome, RelayStatus, Source, Stage, Verdict
from services.sender.smtp.establish import EstablishError, establish, tls_context
from services.sender.smtp.observe import Observer, Silent
from services.sender.smtp.relay import Relay
from services.sender.smtp.replies import Reply

LONGEST_TICK_SECONDS = 0.25  # how finely deadlines are kept
SHORTEST_TICK_SECONDS = 0.01
SPURIOUS_PAUSE_SECONDS = 0.02  # between two questions to a source that says it is ready and has nothing


class Engine:
    """Delivers what a source holds through the first relay that can be used.

    `run` works until `drain` is done or it is cancelled. Emails are taken only while a relay is available; one that
    fails before its body left is tried on another relay at once. Not reusable after `run` has returned.
    """

    def __init__(
        self, relays: Sequence[RelayConfig], config: EngineConfig | None = None, observer: Observer | None = None
    ) -> None:
        if not relays or len({relay.name for relay in relays}) != len(relays):
            raise ValueError("the engine needs at least one relay, each with a name of its own")
        self._config = config or EngineConfig()
        self._observer: Observer = observer or Silent()
        self._relays = [Relay(relay, self._config, tls_context(relay), self._observer.relay) for relay in relays]
        self._by_name = {relay.name: relay for relay in self._relays}
        self._most_tries = len(relays) + 1
        self._current: Relay | None = None  # the relay that emails are taken for
        self._homeless: list[Attempt] = []  # taken, and waiting for a connection
        self._openings: set[asyncio.Task[None]] = set()
        self._taken = 0
        self._draining = False
        self._offer_due = False
        self._quiet = asyncio.Event()  # draining, and nothing is in flight any more
        self._hungry = asyncio.Event()  # somebody asked the source for an email and got none
        self._hungry.set()
        self._stop = asyncio.Event()
        self._source: Source | None = None

    # for the caller

    async def run(self, source: Source) -> None:
        """Deliver until drained or cancelled. Whatever was taken has been reported when this returns."""
        self._loop = asyncio.get_running_loop()
        self._source = source
        self._next_reap = self._loop.time() + self._config.reap_seconds
        self._choose_relay()
        limits = (self._config.email_soft_seconds, self._config.stall_seconds, self._config.rest_seconds)
        self._tick_seconds = max(SHORTEST_TICK_SECONDS, min(LONGEST_TICK_SECONDS, min(limits) / 4))
        self._timer = self._loop.call_later(self._tick_seconds, self._tick)
        try:
            async with asyncio.TaskGroup() as self._tasks:
                feeder = self._tasks.create_task(self._feed(source))
                await self._stop.wait()
                for task in (feeder, *self._openings):
                    task.cancel()
        finally:
            self._draining = True
            self._timer.cancel()
            self._abort_all("the engine stops")

    async def drain(self, seconds: float) -> None:
        """Take nothing more; give what is in flight `seconds` to finish, then abort it; then let `run` return."""
        self._draining = True
        self._give_up_homeless()
        for connection in self._connections():
            connection.retire()
        if self._in_flight():
            self._quiet.clear()
            try:
                async with asyncio.timeout(seconds):
                    await self._quiet.wait()
            except TimeoutError:
                self._abort_all("the drain is over")
        self._stop.set()

    def status(self) -> list[RelayStatus]:
        """Every relay as it is now, in order of preference."""
        now = asyncio.get_running_loop().time()
        return [relay.status(now) for relay in self._relays]

    def blocked_reason(self) -> str | None:
        """Why no email can leave at present, in a sentence; None while a relay is available."""
        now = asyncio.get_running_loop().time()
        if any(relay.available(now) for relay in self._relays):
            return None
        return "; ".join(
            f"relay {status.name}: {status.reason}; next try in {status.resting_for_seconds:.0f} s"
            for status in self.status()
        )

    # for connections (connection.Owner)

    def next_attempt(self, connection: Connection) -> Attempt | None:
        """An email that waits for this relay, else a fresh one if this is the relay to take for."""
        if self._draining:
            return None
        if self._homeless:
            for attempt in self._homeless:
                if connection.relay not in attempt.avoid and (connection.smtputf8 or not attempt.smtputf8):
                    self._homeless.remove(attempt)
                    return attempt
        if self._current is None or connection.relay != self._current.name:
            return None
        while (fresh := self._take()) is not None and fresh.smtputf8 and not connection.smtputf8:
            self._needs_smtputf8(fresh, connection.relay)
        return fresh

    def accepted(self, connection: Connection, attempt: Attempt, reply: Reply, dot_seconds: float) -> None:
        """250 after the final dot."""
        self._by_name[connection.relay].accepted(dot_seconds)
        self._observer.phase(connection.relay, Stage.DOT, dot_seconds)
        self._finish(attempt, self._outcome(attempt, Verdict.ACCEPTED, connection.relay, Stage.DOT, reply))

    def refused(self, connection: Connection, attempt: Attempt, stage: Stage, reply: Reply) -> None:
        """The relay said no: decide whom that concerns."""
        verdict, suppress = classify(stage, reply)
        outcome = self._outcome(attempt, verdict, connection.relay, stage, reply, suppress=suppress)
        relay, now = self._by_name[connection.relay], self._loop.time()
        if verdict is Verdict.THROTTLED:
            relay.throttled(stage, reply, now)
        elif verdict is Verdict.RELAY_FAULT:
            relay.at_fault(stage, reply, now, at_once=True)
        if verdict in (Verdict.THROTTLED, Verdict.RELAY_FAULT):
            self._choose_relay()
            if stage is not Stage.DOT:
                attempt.avoid |= {connection.relay}
                self._try_again(attempt, outcome)
                return
        self._finish(attempt, outcome)

    def ambiguous(self, connection: Connection, attempt: Attempt, reply: Reply) -> None:
        """Body bytes left and no reply came."""
        if not self._draining:
            self._by_name[connection.relay].at_fault(Stage.DOT, reply, self._loop.time())
            self._choose_relay()
        self._finish(attempt, self._outcome(attempt, Verdict.AMBIGUOUS, connection.relay, Stage.DOT, reply))

    def interrupted(
        self, connection: Connection, attempt: Attempt, stage: Stage | None, reply: Reply, at_fault: bool
    ) -> None:
        """The connection ended, or stalls, before the email's body left."""
        if self._draining:
            self._finish(attempt, self._outcome(attempt, Verdict.NOT_STARTED, connection.relay, stage, reply))
            return
        if stage is None or not at_fault:
            self._homeless.append(attempt)
            self._offer_soon()
            return
        if not connection.delivered:
            self._by_name[connection.relay].at_fault(stage, reply, self._loop.time())
            self._choose_relay()
        # The relay, or this recipient: one more try elsewhere tells.
        others = {relay.name for relay in self._relays} - attempt.avoid - {connection.relay}
        if others:
            attempt.avoid |= {connection.relay}
        self._try_again(attempt, self._outcome(attempt, Verdict.TRANSIENT, connection.relay, stage, reply))

    def withdrawn(self, connection: Connection, attempt: Attempt) -> None:
        """`may_send_body` said no."""
        reply = Reply(0, b"withdrawn before its body")
        self._finish(attempt, self._outcome(attempt, Verdict.NOT_STARTED, connection.relay, Stage.DATA, reply))

    def unmade(self, connection: Connection, attempt: Attempt, error: BaseException) -> None:
        """The email could not be made."""
        reply = Reply(0, f"the email could not be made: {type(error).__name__}: {error}".encode())
        self._finish(attempt, self._outcome(attempt, Verdict.TRANSIENT, connection.relay, None, reply))

    def idle(self, connection: Connection) -> None:
        """Remember a connection that waits for work."""
        relay = self._by_name[connection.relay]
        if connection.is_idle and connection not in relay.idle:
            relay.idle.append(connection)

    def closed(self, connection: Connection) -> None:
        """Forget it, and see whether another one is needed."""
        relay = self._by_name[connection.relay]
        relay.connections.discard(connection)
        if connection in relay.idle:
            relay.idle.remove(connection)
        self._offer_soon()

    # emails

    def _take(self) -> Attempt | None:
        """The next email of the source whose addresses can be used."""
        assert self._source is not None
        while True:
            job = self._source.take()
            if job is None:
                self._hungry.set()
                return None
            self._taken += 1
            try:
                return Attempt(job, self._loop.time())
            except BadAddressError as error:
                outcome = Outcome(Verdict.PERMANENT, enhanced="5.1.3", reply=str(error))
                self._observer.attempt(job, outcome)
                self._source.done(job, outcome)

    def _try_again(self, attempt: Attempt, failure: Outcome) -> None:
        """On another relay or connection, unless its tries, its time, or the relays are used up."""
        attempt.failure = failure
        attempt.tries += 1
        late = self._loop.time() - attempt.started >= self._config.email_soft_seconds
        if late or attempt.tries >= self._most_tries or not self._relay_for(attempt):
            self._finish(attempt, failure)
        else:
            self._homeless.append(attempt)
            self._offer_soon()

    def _needs_smtputf8(self, attempt: Attempt, relay: str) -> None:
        reply = Reply(550, b"5.6.7 the address needs SMTPUTF8, which no relay offers")
        attempt.avoid |= {relay}
        self._try_again(attempt, self._outcome(attempt, Verdict.PERMANENT, relay, Stage.MAIL, reply))

    def _give_up_homeless(self) -> None:
        """Report emails that no relay can take now; when draining, all."""
        for attempt in self._homeless[:]:
            late = self._loop.time() - attempt.started >= self._config.email_soft_seconds
            if self._draining or late or not self._relay_for(attempt):
                self._homeless.remove(attempt)
                self._finish(attempt, attempt.failure or self._no_relay(attempt))

    def _no_relay(self, attempt: Attempt) -> Outcome:
        """For an email that waited for a connection which never came."""
        relay = next((relay for relay in self._relays if relay.failure), None)
        if self._draining or relay is None or relay.failure is None:
            return Outcome(Verdict.NOT_STARTED, reply="no connection was free in time")
        verdict = Verdict.THROTTLED if relay.throttled_last else Verdict.RELAY_FAULT
        return self._outcome(attempt, verdict, relay.name, *relay.failure)

    def _finish(self, attempt: Attempt, outcome: Outcome) -> None:
        self._observer.attempt(attempt.job, outcome)
        assert self._source is not None
        self._source.done(attempt.job, outcome)
        if self._draining and not self._in_flight():
            self._quiet.set()

    def _outcome(
        self,
        attempt: Attempt,
        verdict: Verdict,
        relay: str,
        stage: Stage | None,
        reply: Reply,
        *,
        suppress: bool = False,
    ) -> Outcome:
        return Outcome(
            verdict,
            relay,
            stage,
            reply.code or None,
            reply.enhanced,
            reply.text,
            reply.queue_id if verdict is Verdict.ACCEPTED else None,
            suppress,
            self._loop.time() - attempt.started,
        )

    # relays

    def _choose_relay(self) -> None:
        """The first available relay is the one to take emails for."""
        now = self._loop.time()
        self._current = next((relay for relay in self._relays if relay.available(now)), None)

    def _relay_for(self, attempt: Attempt) -> Relay | None:
        now = self._loop.time()
        return next((r for r in self._relays if r.name not in attempt.avoid and r.available(now)), None)

    # connections

    def _offer_soon(self) -> None:
        """Look for work once this turn of the loop is over: connections are in the middle of something."""
        if not self._offer_due and not self._draining:
            self._offer_due = True
            self._loop.call_soon(self._offer)

    def _offer(self) -> None:
        """Bring emails and connections together; open connections while there is work that has none."""
        self._offer_due = False
        if self._draining:
            return
        self._give_up_homeless()
        for attempt in self._homeless[:]:
            relay = self._relay_for(attempt)
            if relay is not None and attempt in self._homeless:
                self._find_connection(relay)
        relay = self._current
        if relay is None:
            return
        while relay.idle:
            relay.idle.pop().offer()
            if self._hungry.is_set():
                return
        while not self._hungry.is_set() and relay.can_open(self._loop.time()):
            fresh = self._take()
            if fresh is None:
                return
            self._homeless.append(fresh)
            self._open(relay)

    def _find_connection(self, relay: Relay) -> None:
        if relay.idle:
            relay.idle.pop().offer()
        elif relay.opening < len(self._homeless) and relay.can_open(self._loop.time()):
            self._open(relay)

    def _open(self, relay: Relay) -> None:
        relay.opening += 1
        task = self._tasks.create_task(self._establish(relay))
        self._openings.add(task)
        task.add_done_callback(self._openings.discard)

    async def _establish(self, relay: Relay) -> None:
        def phase(stage: Stage, seconds: float) -> None:
            self._observer.phase(relay.name, stage, seconds)

        try:
            session = await establish(relay.config, self._config, relay.context, phase)
        except EstablishError as error:
            throttled = classify(error.stage, error.reply)[0] is Verdict.THROTTLED
            relay.could_not_open(error.stage, error.reply, self._loop.time(), throttled=throttled)
            return
        else:
            connection = Connection(self, relay.name, session, self._config, relay.config.max_emails_per_connection)
            relay.connections.add(connection)
            relay.opened(self._loop.time())
            connection.offer()
        finally:
            relay.opening -= 1
            self._choose_relay()
            self._offer_soon()

    def _connections(self) -> list[Connection]:
        return [connection for relay in self._relays for connection in relay.connections]

    def _in_flight(self) -> int:
        return sum(connection.in_flight for connection in self._connections())

    def _abort_all(self, why: str) -> None:
        self._give_up_homeless()
        for connection in self._connections():
            connection.abort(why)

    # time

    async def _feed(self, source: Source) -> None:
        """Wake connections when the source has something again."""
        while True:
            await self._hungry.wait()
            await source.ready()
            self._hungry.clear()
            before = self._taken
            self._offer()
            if self._taken == before and self._hungry.is_set():
                await asyncio.sleep(SPURIOUS_PAUSE_SECONDS)

    def _tick(self) -> None:
        """The one timer: deadlines of every connection, ends of rests, reaping."""
        now = self._loop.time()
        self._timer = self._loop.call_later(self._tick_seconds, self._tick)
        reap = now >= self._next_reap
        if reap:
            self._next_reap = now + self._config.reap_seconds
        for relay in self._relays:
            for connection in list(relay.connections):
                connection.check(now, relay.stall_seconds)
                if reap and _outlived(connection, relay.config, now):
                    connection.retire()
            relay.recover(now)
            if relay.wants_probe(now) and not self._draining:
                self._open(relay)
        self._choose_relay()
        if not self._hungry.is_set() or self._homeless:
            self._offer_soon()


def _outlived(connection: Connection, relay: RelayConfig, now: float) -> bool:
    idle = connection.is_idle and now - connection.quiet_since >= relay.idle_seconds
    return idle or now - connection.opened_at >= relay.max_age_seconds

"""One relay as the pool sees it: its connections, and whether it may be used now.

Two things can be wrong. A relay that *cannot be used* (refused, silent, rejects before MAIL, keeps losing connections)
is rested, twice as long each time, then probed with one connection. A relay that *wants less* (421, 4.7.x) is slowed:
half the connections, and a pause, twice as long each time. One accepted email is proof of health.
"""

import random
import ssl
from collections.abc import Callable

from services.sender.smtp.config import EngineConfig
from services.sender.smtp.connection import Connection
from services.sender.smtp.contract import RelayStatus
from shared.relays.config import RelayConfig
from shared.relays.replies import Reply, Stage, without_addresses

IN_A_ROW = 3  # refusals or losses without an accepted email in between, before the whole relay is thought of
ASSUMED_REPLY_SECONDS = 0.4  # the usual wait, until the relay has shown it
LEAST_WEIGHT = 0.05  # of the newest reply in the running mean
STALL_FACTOR = 10  # times the usual wait
PROOF_EMAILS = 100  # accepted since a connection stalled: then it is its email that hangs, not the relay
MOST_HANGING = 256  # such connections, beside the spare ones
RECOVERY_SECONDS = 1.0  # a slowed relay gets one connection back this often

StateChange = Callable[[str, str, str, float], None]  # relay, state, reason, seconds


class Relay:
    """See the module. All times are the event loop's."""

    def __init__(
        self, relay: RelayConfig, config: EngineConfig, context: ssl.SSLContext | None, changed: StateChange
    ) -> None:
        self.config = relay
        self.name = relay.name
        self.context = context
        self.connections: set[Connection] = set()
        self.opening = 0
        self.failure: tuple[Stage | None, Reply] | None = None  # the latest one
        self.throttled_last = False  # whether that was a wish to slow down
        self._stalled: dict[Connection, int] = {}  # emails accepted by the relay when it stalled
        self._idle: list[Connection] = []  # the one used last is used first, so that the others age and close
        self._engine = config
        self._changed = changed
        self._allowed = relay.connections
        self._accepted = 0
        self._usual_reply = ASSUMED_REPLY_SECONDS
        self._bad_in_a_row = 0
        self._backoff = config.rest_seconds
        self._resting = False
        self._until = 0.0  # end of a rest or a pause
        self._open_after = 0.0  # it has just refused one more connection
        self._open_backoff = config.rest_seconds
        self._next_change = 0.0  # of the number of connections, up or down

    # may it be used?

    def available(self, now: float) -> bool:
        """Whether emails may be taken for it now."""
        return not self._resting and now >= self._until

    def can_open(self, now: float) -> bool:
        """Whether one more connection may be opened. A relay that hangs as a whole gets its spare connections and no
        more; one that goes on beside emails that hang gets another for each of those."""
        total = len(self.connections) + self.opening - min(self._hanging(), MOST_HANGING)
        return (
            self.available(now)
            and now >= self._open_after
            and self._working() + self.opening < self._allowed
            and total < self.config.connections + self.config.spare_connections
        )

    def wants_probe(self, now: float) -> bool:
        """Whether its rest is over and nobody is trying it yet."""
        return self._resting and now >= self._until and not self.opening

    # connections that wait for work

    def now_idle(self, connection: Connection) -> None:
        """It may be given an email."""
        if connection not in self._idle:
            self._idle.append(connection)

    def next_idle(self, now: float) -> Connection | None:
        """A connection to give an email to. One that lay idle for long is closed: the relay may have forgotten it."""
        while self._idle:
            connection = self._idle.pop()
            if now - connection.quiet_since >= self.config.idle_seconds:
                connection.retire()
            elif connection.is_idle:
                return connection
        return None

    def forget(self, connection: Connection) -> None:
        """It is closed."""
        self.connections.discard(connection)
        self._stalled.pop(connection, None)
        if connection in self._idle:
            self._idle.remove(connection)

    def watch(self, now: float) -> None:
        """Keep the deadlines of every connection."""
        stall_seconds = max(self._engine.stall_seconds, STALL_FACTOR * self._usual_reply)
        for connection in list(self.connections):
            connection.check(now, stall_seconds)
            if not connection.stalled:
                self._stalled.pop(connection, None)
            elif not connection.closed:
                self._stalled.setdefault(connection, self._accepted)

    def reap(self, now: float) -> None:
        """Close what is idle or old."""
        for connection in list(self.connections):
            idle = connection.is_idle and now - connection.quiet_since >= self.config.idle_seconds
            if idle or now - connection.opened_at >= self.config.max_age_seconds:
                connection.retire()

    # what happened

    def opened(self, now: float) -> None:
        """A connection was established. One that was under way when a rest began does not end it."""
        self._open_backoff = self._engine.rest_seconds
        if self._resting and now >= self._until:
            self._resting = False
            self._changed(self.name, "up", "", 0.0)

    def could_not_open(self, stage: Stage, reply: Reply, now: float, *, throttled: bool) -> None:
        """A connection was refused, at whatever stage before MAIL. Others may be open, or under way."""
        self._remember(stage, reply, throttled)
        others = self._working() + self.opening - 1
        if not others:
            self._rest(now)
            return
        # It serves us, but not with one more: stay with what there is for a while.
        self._allowed = min(self._allowed, others)
        if now >= self._open_after:
            self._open_after = self._next_change = now + self._open_backoff
            self._changed(self.name, "slow", self.reason, self._open_backoff)
            self._open_backoff = min(self._engine.rest_max_seconds, 2 * self._open_backoff)

    def at_fault(self, stage: Stage | None, reply: Reply, now: float) -> None:
        """It lost a connection, or answered in a way that makes it useless."""
        self._remember(stage, reply, throttled=False)
        self._bad_in_a_row += 1
        if self._bad_in_a_row >= IN_A_ROW:
            self._rest(now)

    def throttled(self, stage: Stage, reply: Reply, now: float) -> None:
        """It asked to slow down. Once may be about one recipient (greylisting); a row of them is about us."""
        self._remember(stage, reply, throttled=True)
        self._bad_in_a_row += 1
        if self._bad_in_a_row < IN_A_ROW or now < self._until:
            return
        self._allowed = max(1, self._allowed // 2)
        for connection in self._active()[self._allowed :]:
            connection.retire()
        pause = self._take_backoff()
        self._until = now + pause
        self._next_change = self._until + RECOVERY_SECONDS
        self._changed(self.name, "slow", self.reason, pause)

    def accepted(self, dot_seconds: float) -> None:
        """It took an email."""
        self._accepted += 1
        self._usual_reply += max(LEAST_WEIGHT, 1 / self._accepted) * (dot_seconds - self._usual_reply)
        if self._bad_in_a_row:
            self._bad_in_a_row = 0
        if self._backoff != self._engine.rest_seconds:
            self._backoff = self._engine.rest_seconds

    def adjust(self, now: float) -> None:
        """Give a slowed relay a connection back, or close one of too many: one step at a time."""
        if now < self._next_change or not self.available(now):
            return
        if self._allowed < self.config.connections:
            self._allowed += 1
            self._next_change = now + RECOVERY_SECONDS
            if self._allowed == self.config.connections:
                self._changed(self.name, "up", "", 0.0)
        elif len(active := self._active()) > self._allowed:
            self._next_change = now + RECOVERY_SECONDS
            active[-1].retire()

    # how it is

    @property
    def reason(self) -> str:
        """Stage, code and words of the latest failure; no address."""
        if self.failure is None:
            return ""
        stage, reply = self.failure
        words = " ".join(filter(None, (str(reply.code or ""), reply.text)))
        return without_addresses(f"{stage}: {words}" if stage else words)

    def status(self, now: float) -> RelayStatus:
        """For health pages and metrics."""
        waiting = max(0.0, self._until - now)
        state = "resting" if self._resting else "slow" if waiting or self._allowed < self.config.connections else "up"
        return RelayStatus(
            name=self.name,
            state=state,
            connections=len(self.connections),
            in_flight=sum(connection.in_flight for connection in self.connections),
            reason=self.reason if state != "up" else "",
            resting_for_seconds=waiting,
        )

    def _working(self) -> int:
        return sum(1 for connection in self.connections if not connection.stalled)

    def _hanging(self) -> int:
        return sum(1 for accepted in self._stalled.values() if self._accepted - accepted >= PROOF_EMAILS)

    def _active(self) -> list[Connection]:
        """Those that take emails, the busiest first."""
        active = [connection for connection in self.connections if not (connection.stalled or connection.retiring)]
        return sorted(active, key=lambda connection: connection.in_flight, reverse=True)

    def _remember(self, stage: Stage | None, reply: Reply, throttled: bool) -> None:
        self.failure = (stage, reply)
        self.throttled_last = throttled

    def _rest(self, now: float) -> None:
        if self._resting and now < self._until:
            return
        self._resting = True
        pause = self._take_backoff()
        self._until = now + pause
        self._bad_in_a_row = 0
        self._changed(self.name, "resting", self.reason, pause)

    def _take_backoff(self) -> float:
        pause = self._backoff
        self._backoff = min(self._engine.rest_max_seconds, 2 * pause)
        return pause * random.uniform(0.8, 1.0)

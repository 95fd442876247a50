"""One relay as the pool sees it: its connections, and whether it may be used now.

Two things can be wrong. A relay that *cannot be used* (it refuses connections, is silent, rejects before MAIL, or keeps
losing connections) rests, twice as long each time, and is then probed with one connection. A relay that *wants less*
is slowed: half the connections, and a pause, twice as long each time. One accepted email proves health.
"""

import random
import ssl
from collections import Counter
from collections.abc import Callable

from services.sender.smtp.config import EngineConfig
from services.sender.smtp.connection import Connection
from services.sender.smtp.contract import ProviderRest, RelayStatus
from services.sender.smtp.provider_rests import ProviderRests
from shared.relays.config import RelayConfig
from shared.relays.replies import Reply, Stage, without_addresses

IN_A_ROW = 3  # recipients it failed, with no email accepted in between, count against the relay as a whole
OWN_MATTER_AFTER = 5  # refusals of one recipient that neither rested nor slowed the relay
MOST_TOLD = 1000  # recipients whose refusals are counted
ASSUMED_REPLY_SECONDS = 0.4  # the usual reply to a body, until the relay has shown its own
LEAST_WEIGHT = 0.05  # of the newest reply in the running mean
STALL_FACTOR = 10  # usual replies: a connection that waits longer is stalled
PROOF_EMAILS = 100  # accepted since a connection stalled, they prove that its email hangs and not the relay
MOST_HANGING = 256  # such connections that do not count as spare ones
RECOVERY_SECONDS = 1.0  # how often a slowed relay gets one connection back
MOST_RESTING_PROVIDERS = 20  # that a status names

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
        #: Connections being opened.
        self.opening = 0
        #: The latest failure.
        self.failure: tuple[Stage | None, Reply] | None = None
        #: Whether the latest failure was a wish to slow down.
        self.throttled_last = False
        self._stalled: dict[Connection, int] = {}  # and the value of `_accepted` when it stalled
        self._idle: list[Connection] = []  # used from the end, so that the others stay idle and close
        self._engine = config
        self._changed = changed
        self._allowed = relay.connections
        self._accepted = 0  # emails
        self._usual_reply = ASSUMED_REPLY_SECONDS
        self._bad_in_a_row: set[str] = set()  # recipients it failed since it last accepted an email
        self._providers_in_a_row: set[str] = set()  # that refused us since then
        #: Providers that rest at this relay.
        self.provider_rests = ProviderRests(config.provider_rest_seconds)
        self._told: Counter[str] = Counter()  # its own refusals by recipient, since it last rested or slowed down
        self._backoff = config.rest_seconds
        self._resting = False
        self._until = 0.0  # end of a rest or a pause
        self._open_after = 0.0  # no connection is opened before: it has refused one more
        self._open_backoff = config.rest_seconds
        self._next_change = 0.0  # when `adjust` may next change the number of connections

    # may it be used?

    def available(self, now: float) -> bool:
        """Whether emails may be taken for this relay now."""
        return not self._resting and now >= self._until

    def can_open(self, now: float) -> bool:
        """Whether one more connection may be opened. A relay that hangs as a whole gets its spare connections only; one
        that accepts emails while others hang gets one for each that hangs."""
        total = len(self.connections) + self.opening - min(self._hanging(), MOST_HANGING)
        return (
            self.available(now)
            and now >= self._open_after
            and self._working() + self.opening < self._allowed
            and total < self.config.connections + self.config.spare_connections
        )

    def wants_probe(self, now: float) -> bool:
        """Whether the rest is over and no connection is being opened yet."""
        return self._resting and now >= self._until and not self.opening

    # connections that wait for work

    def now_idle(self, connection: Connection) -> None:
        """This connection may be given an email."""
        if connection not in self._idle:
            self._idle.append(connection)

    def next_idle(self, now: float) -> Connection | None:
        """A connection for an email. One that was idle for too long is closed: the relay may have dropped it."""
        while self._idle:
            connection = self._idle.pop()
            if now - connection.quiet_since >= self.config.idle_seconds:
                connection.retire()
            elif connection.is_idle:
                return connection
        return None

    def forget(self, connection: Connection) -> None:
        """This connection is closed."""
        self.connections.discard(connection)
        self._stalled.pop(connection, None)
        if connection in self._idle:
            self._idle.remove(connection)

    def watch(self, now: float) -> None:
        """Check the deadlines of every connection."""
        stall_seconds = max(self._engine.stall_seconds, STALL_FACTOR * self._usual_reply)
        for connection in list(self.connections):
            connection.check(now, stall_seconds)
            if not connection.stalled:
                self._stalled.pop(connection, None)
            elif not connection.closed:
                self._stalled.setdefault(connection, self._accepted)

    def reap(self, now: float) -> None:
        """Close connections that are idle or old."""
        for connection in list(self.connections):
            idle = connection.is_idle and now - connection.quiet_since >= self.config.idle_seconds
            if idle or now - connection.opened_at >= self.config.max_age_seconds:
                connection.retire()

    # what happened

    def opened(self, now: float) -> None:
        """A connection was opened. It ends a rest, unless the rest began while it was being opened."""
        self._open_backoff = self._engine.rest_seconds
        if self._resting and now >= self._until:
            self._resting = False
            self._changed(self.name, "up", "", 0.0)

    def could_not_open(self, stage: Stage, reply: Reply, now: float, *, throttled: bool) -> None:
        """A connection could not be opened, at any stage before MAIL. Others may be open, or being opened."""
        self._remember(stage, reply, throttled)
        others = self._working() + self.opening - 1
        if not others:
            self._rest(now)
            return
        # It serves the others, but takes no more: keep to those for a while.
        self._allowed = min(self._allowed, others)
        if now >= self._open_after:
            self._open_after = self._next_change = now + self._open_backoff
            self._changed(self.name, "slow", self.reason, self._open_backoff)
            self._open_backoff = min(self._engine.rest_max_seconds, 2 * self._open_backoff)

    def refused(self, recipient: str, stage: Stage, reply: Reply, now: float, *, throttled: bool) -> bool:
        """The relay refused an email and spoke of itself: it wants less (`throttled`), or cannot be used.

        Said of several recipients in a row, that is believed. Returns True if it is the matter of this recipient
        instead, who alone is refused again and again."""
        if throttled:
            self._remember(stage, reply, throttled=True)
            if self._failed_several(recipient):
                self._slow_down(now)
        else:
            self.at_fault(recipient, stage, reply, now)
        self._told[recipient] += 1
        if not self.available(now) or len(self._told) > MOST_TOLD:
            self._told.clear()
        return self._told[recipient] >= OWN_MATTER_AFTER

    def refused_by(self, provider: str, recipient: str, stage: Stage, reply: Reply, now: float) -> None:
        """A provider refused an email in a way that may mean all of ours. Several providers in a row mean the relay."""
        rest = self.provider_rests.deferred(provider, recipient, stage, reply, now)
        if rest is not None:
            reason = without_addresses(f"{provider}: {reply.code} {reply.text}")
            self._changed(self.name, "provider resting", reason, rest.until - now)
        if len(self._providers_in_a_row) < IN_A_ROW:
            self._providers_in_a_row.add(provider)
        if len(self._providers_in_a_row) >= IN_A_ROW:
            self._remember(stage, reply, throttled=True)
            self._slow_down(now)

    def at_fault(self, recipient: str, stage: Stage | None, reply: Reply, now: float) -> None:
        """The relay lost a connection at the step of this recipient, or gave a reply that makes it useless."""
        self._remember(stage, reply, throttled=False)
        if self._failed_several(recipient):
            self._rest(now)

    def distrust(self, now: float) -> None:
        """It refuses nearly every recipient in the same words, which says more of it than of them."""
        self._remember(Stage.RCPT, Reply(0, b"it refused nearly every recipient in the same words"), throttled=False)
        self._rest(now)

    def hold(self, until: float, why: str, now: float) -> None:
        """A cap on its emails is used up: it rests until then. If that is over, it is used again at once, unprobed."""
        if until <= now:
            self._resting, self._until = False, now
            self._changed(self.name, "up", why, 0.0)
            return
        self._remember(None, Reply(0, why.encode()), throttled=False)
        self._resting = True
        self._until = until
        self._changed(self.name, "resting", self.reason, until - now)

    def _slow_down(self, now: float) -> None:
        if now < self._until:
            return
        self._allowed = max(1, self._allowed // 2)
        for connection in self._active()[self._allowed :]:
            connection.retire()
        pause = self._take_backoff()
        self._until = now + pause
        self._next_change = self._until + RECOVERY_SECONDS
        self._changed(self.name, "slow", self.reason, pause)

    def accepted(self, dot_seconds: float) -> None:
        """The relay accepted an email."""
        self._accepted += 1
        self._usual_reply += max(LEAST_WEIGHT, 1 / self._accepted) * (dot_seconds - self._usual_reply)
        if self._bad_in_a_row or self._providers_in_a_row:
            self._bad_in_a_row.clear()
            self._providers_in_a_row.clear()
        if self._backoff != self._engine.rest_seconds:
            self._backoff = self._engine.rest_seconds

    def adjust(self, now: float) -> None:
        """Give a slowed relay one connection back, or close one of too many."""
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
        """Stage, code and words of the latest failure, without addresses."""
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
            busy=sum(1 for connection in self.connections if connection.in_flight),
            connections_limit=self._allowed,
            resting_providers=tuple(
                ProviderRest(name, without_addresses(f"{rest.reply.code} {rest.reply.text}"), rest.until - now)
                for name, rest in self.provider_rests.resting(now)[:MOST_RESTING_PROVIDERS]
            ),
        )

    def _working(self) -> int:
        return sum(1 for connection in self.connections if not connection.stalled)

    def _hanging(self) -> int:
        return sum(1 for accepted in self._stalled.values() if self._accepted - accepted >= PROOF_EMAILS)

    def _active(self) -> list[Connection]:
        """The connections that take emails, the busiest first."""
        active = [connection for connection in self.connections if not (connection.stalled or connection.retiring)]
        return sorted(active, key=lambda connection: connection.in_flight, reverse=True)

    def _failed_several(self, recipient: str) -> bool:
        """Whether it failed enough recipients since it last accepted an email. One alone may be the cause itself."""
        if len(self._bad_in_a_row) < IN_A_ROW:
            self._bad_in_a_row.add(recipient)
        return len(self._bad_in_a_row) >= IN_A_ROW

    def _remember(self, stage: Stage | None, reply: Reply, throttled: bool) -> None:
        self.failure = (stage, reply)
        self.throttled_last = throttled

    def _rest(self, now: float) -> None:
        if self._resting and now < self._until:
            return
        self._resting = True
        pause = self._take_backoff()
        self._until = now + pause
        self._bad_in_a_row.clear()
        self._changed(self.name, "resting", self.reason, pause)

    def _take_backoff(self) -> float:
        pause = self._backoff
        self._backoff = min(self._engine.rest_max_seconds, 2 * pause)
        return pause * random.uniform(0.8, 1.0)

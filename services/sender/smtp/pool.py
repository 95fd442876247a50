"""All relays and their connections: which relay is used now, opening, deadlines, closing."""

import asyncio
from collections.abc import Container, Sequence
from typing import Protocol

from services.sender.smtp.config import EngineConfig
from services.sender.smtp.connection import Connection, Owner
from services.sender.smtp.contract import Job, RelayStatus
from services.sender.smtp.observe import Observer
from services.sender.smtp.relay import Relay
from services.sender.smtp.turns import Turns
from shared.relays.config import RelayConfig
from shared.relays.replies import Reply, Stage
from shared.relays.session import EstablishError, establish


class PoolOwner(Owner, Protocol):
    """The owner of all connections."""

    def could_not_open(self, relay: Relay, stage: Stage, reply: Reply) -> None:
        """A connection could not be opened: decide what that says about the relay."""

    def offer_soon(self) -> None:
        """A connection was opened, or could not be."""


class Pool:
    """Relays in order of preference; those with a weight take turns in being preferred."""

    def __init__(self, relays: Sequence[RelayConfig], config: EngineConfig, observer: Observer) -> None:
        if not relays or len({relay.name for relay in relays}) != len(relays):
            raise ValueError("the engine needs at least one relay, and names that differ")
        self.relays = [Relay(relay, config, relay.tls_context(), observer.relay) for relay in relays]
        self._turns = Turns(self.relays, config.turn_seconds)
        self.by_name = {relay.name: relay for relay in self.relays}
        #: The first relay that is available; emails are taken for this one.
        self.current: Relay | None = None
        self._config = config
        self._observer = observer
        self._openings: set[asyncio.Task[None]] = set()

    def start(self, owner: PoolOwner, tasks: asyncio.TaskGroup) -> None:
        """Connections will report to `owner`, and are opened in `tasks`."""
        self._owner = owner
        self._tasks = tasks
        self._next_reap = asyncio.get_running_loop().time() + self._config.reap_seconds
        self.choose()

    def choose(self) -> None:
        """Find the first available relay, after something about a relay has changed or a turn has ended."""
        now = asyncio.get_running_loop().time()
        self._turns.advance(now)
        self.current = next((relay for relay in self._turns.order if relay.available(now)), None)

    def rest(self, name: str) -> None:
        """Let a relay rest."""
        relay = self.by_name.get(name)
        if relay is not None:
            relay.distrust(asyncio.get_running_loop().time())
            self.choose()

    def relay_avoiding(self, names: frozenset[str]) -> Relay | None:
        """The first available relay whose name is not in `names`."""
        now = asyncio.get_running_loop().time()
        return next((relay for relay in self._turns.order if relay.name not in names and relay.available(now)), None)

    def open(self, relay: Relay) -> None:
        """Open one more connection, which asks for an email as soon as it is ready."""
        relay.opening += 1
        task = self._tasks.create_task(self._establish(relay))
        self._openings.add(task)
        task.add_done_callback(self._openings.discard)

    def connections(self) -> list[Connection]:
        """All that are open."""
        return [connection for relay in self.relays for connection in relay.connections]

    def in_flight(self) -> int:
        """Emails that are on a connection."""
        return sum(connection.in_flight for connection in self.connections())

    def tick(self, now: float) -> None:
        """Look at deadlines, ends of rests, idle and aged connections."""
        reap = now >= self._next_reap
        if reap:
            self._next_reap = now + self._config.reap_seconds
        for relay in self.relays:
            relay.watch(now)
            if reap:
                relay.reap(now)
            relay.adjust(now)
            if relay.wants_probe(now):
                self.open(relay)
        self.choose()

    def watch(self, now: float) -> None:
        """Look at deadlines only, during a drain."""
        for relay in self.relays:
            relay.watch(now)

    def retire_all(self) -> None:
        """Open no more connections; each one closes when it has nothing in flight."""
        for task in self._openings:
            task.cancel()
        for connection in self.connections():
            connection.retire()

    def abort_all(self, why: str) -> None:
        """Drop every connection now, and report the emails in flight."""
        for connection in self.connections():
            connection.abort(why)

    def give_up(self, jobs: Container[Job], why: str) -> None:
        """Stop with those of these emails that are on a connection."""
        for connection in self.connections():
            connection.give_up(jobs, why)

    def status(self) -> list[RelayStatus]:
        """The state of every relay."""
        now = asyncio.get_running_loop().time()
        return [relay.status(now) for relay in self.relays]

    def blocked_reason(self) -> str | None:
        """Why no relay is available, in a sentence; None if one is."""
        now = asyncio.get_running_loop().time()
        if any(relay.available(now) for relay in self.relays):
            return None
        return "; ".join(
            f"relay {relay.name}: {relay.reason}; next try in {relay.status(now).resting_for_seconds:.0f} s"
            for relay in self.relays
        )

    async def _establish(self, relay: Relay) -> None:
        loop = asyncio.get_running_loop()

        def phase(stage: Stage, seconds: float) -> None:
            self._observer.phase(relay.name, stage, seconds)

        try:
            session = await establish(relay.config, relay.context, self._config.connect_seconds, phase)
        except EstablishError as error:
            self._owner.could_not_open(relay, error.stage, error.reply)
        else:
            most_emails = relay.config.max_emails_per_connection
            connection = Connection(self._owner, relay.name, session, self._config, most_emails, verp=relay.config.verp)
            relay.connections.add(connection)
            relay.opened(loop.time())
            self.choose()
            connection.offer()
        finally:
            relay.opening -= 1
            self.choose()
            self._owner.offer_soon()

"""One delivery engine for each group of relays, so that an email is tried on the relays of its group only."""

import asyncio
from collections.abc import Collection, Container, Mapping, Sequence

from services.sender.smtp.config import EngineConfig
from services.sender.smtp.contract import Job, RelayStatus, Source
from services.sender.smtp.engine import Engine
from services.sender.smtp.observe import Observer
from shared.relays.config import RelayConfig


class Engines:
    """All engines of a process. Relays stand in order of preference."""

    def __init__(self, relays: Sequence[RelayConfig], config: EngineConfig, observer: Observer | None = None) -> None:
        #: The group of each relay, by the relay's name.
        self.group_of: Mapping[str, str] = {relay.name: relay.group for relay in relays}
        self._engines = {
            group: Engine([relay for relay in relays if relay.group == group], config, observer)
            for group in dict.fromkeys(self.group_of.values())
        }

    @property
    def groups(self) -> Collection[str]:
        """The groups that have a relay here."""
        return self._engines.keys()

    async def run(self, source: Source) -> None:
        """Deliver until drained or cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for engine in self._engines.values():
                tasks.create_task(engine.run(source))

    async def drain(self, seconds: float) -> None:
        """Take no more emails; give those in flight `seconds` to finish, then abort them; then let `run` return."""
        async with asyncio.TaskGroup() as tasks:
            for engine in self._engines.values():
                tasks.create_task(engine.drain(seconds))

    def abort(self, jobs: Container[Job], why: str) -> None:
        """Stop with these emails now. Each is reported before this returns, as ambiguous if its body is out."""
        for engine in self._engines.values():
            engine.abort(jobs, why)

    def rest(self, relay: str) -> None:
        """Do not use this relay for a while: it refuses nearly every recipient."""
        if relay in self.group_of:
            self._engines[self.group_of[relay]].rest(relay)

    def hold(self, relay: str, seconds: float, why: str) -> None:
        """Let a relay rest for these seconds, because a cap on its emails is used up; 0 if that was lifted."""
        self._engines[self.group_of[relay]].hold(relay, seconds, why)

    def open_connections(self) -> int:
        """Open connections to all relays."""
        return sum(engine.open_connections() for engine in self._engines.values())

    def status(self) -> list[RelayStatus]:
        """The state of every relay, group by group."""
        return [status for engine in self._engines.values() for status in engine.status()]

    def blocked_reason(self, group: str | None = None) -> str | None:
        """Why no email of a group (None: of any) can leave now, in a sentence; None if one can."""
        if group is not None:
            return self._engines[group].blocked_reason()
        reasons = [engine.blocked_reason() for engine in self._engines.values()]
        return None if None in reasons else "; ".join(filter(None, reasons))

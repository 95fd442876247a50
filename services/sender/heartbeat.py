"""Publishes `sender.heartbeat` every few seconds: all the watchdog knows about senders comes from it."""

import asyncio
import os
import socket
import time
from contextlib import suppress

from services.sender.engines import Engines
from services.sender.held_batches import HeldBatches
from shared.bus import Bus
from shared.events import ProviderHealth, RelayHealth, SenderHeartbeat
from shared.settings import SenderSettings

REPLY_KEPT = 200


class Heartbeat:
    """One per process."""

    def __init__(
        self, settings: SenderSettings, bus: Bus, engine: Engines, held_batches: HeldBatches, owner: str
    ) -> None:
        self._settings = settings
        self._bus = bus
        self._engine = engine
        self._batches = held_batches
        self._owner = owner
        self._began = time.monotonic()
        #: The moment of the last heartbeat, and the emails done until then.
        self._last = (self._began, 0)
        self._beat_now = asyncio.Event()

    async def run(self) -> None:
        """Beats every `heartbeat_seconds`, from when the broker is connected."""
        await self._bus.connected.wait()
        while True:
            await self.beat()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.heartbeat_seconds):
                    await self._beat_now.wait()
            self._beat_now.clear()

    def beat_soon(self) -> None:
        """There is news that should not wait for the next heartbeat."""
        self._beat_now.set()

    async def beat(self) -> None:
        """Publishes one heartbeat."""
        now, done = time.monotonic(), self._batches.emails_done
        since, before = self._last
        self._last = now, done
        draining = self._batches.is_draining
        await self._bus.publish(
            SenderHeartbeat(
                instance=self._owner,
                host=socket.gethostname(),
                pid=os.getpid(),
                slot=self._settings.slot or None,
                slots=0 if draining else self._settings.batches_in_hand,
                draining=draining,
                blocked=self._engine.blocked_reason() is not None,
                uptime_seconds=now - self._began,
                emails_done=done,
                emails_per_second=round((done - before) / max(now - since, 0.001), 1),
                batches=tuple(self._batches.progress(now)),
                relays=tuple(
                    RelayHealth(
                        name=relay.name,
                        group=self._engine.group_of[relay.name],
                        state=relay.state,
                        connections=relay.connections,
                        in_flight=relay.in_flight,
                        reason=relay.reason[:REPLY_KEPT],
                        resting_for_seconds=relay.resting_for_seconds,
                        connections_limit=relay.connections_limit,
                        resting_providers=tuple(
                            ProviderHealth(
                                name=provider.name,
                                reason=provider.reason[:REPLY_KEPT],
                                resting_for_seconds=provider.resting_for_seconds,
                            )
                            for provider in relay.resting_providers
                        ),
                    )
                    for relay in self._engine.status()
                ),
            )
        )

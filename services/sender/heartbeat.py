"""Tells how this process is, every few seconds: the watchdog knows senders from nothing else."""

import asyncio
import os
import socket
import time
from contextlib import suppress

from services.sender.in_hand import InHand
from services.sender.smtp.engine import Engine
from services.sender.worker import Worker
from shared.bus import Bus
from shared.events import RelayHealth, SenderHeartbeat

REPLY_KEPT = 200


class Heart:
    """One for a process. `beat_now` is set when there is news that should not wait."""

    def __init__(
        self,
        bus: Bus,
        worker: Worker,
        engine: Engine,
        in_hand: InHand,
        *,
        owner: str,
        slot: str,
        slots: int,
        seconds: float,
    ) -> None:
        self._bus = bus
        self._worker = worker
        self._engine = engine
        self._in_hand = in_hand
        self._owner = owner
        self._slot = slot
        self._slots = slots
        self._seconds = seconds
        self._began = time.monotonic()
        self._last = (self._began, 0)
        self.beat_now = asyncio.Event()

    async def run(self) -> None:
        await self._bus.connected.wait()
        while True:
            await self.beat()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._seconds):
                    await self.beat_now.wait()
            self.beat_now.clear()

    async def beat(self) -> None:
        now, done = time.monotonic(), self._in_hand.emails_done
        since, before = self._last
        self._last = now, done
        draining = self._in_hand.draining
        await self._bus.publish(
            SenderHeartbeat(
                instance=self._owner,
                host=socket.gethostname(),
                pid=os.getpid(),
                slot=self._slot or None,
                slots=0 if draining else self._slots,
                draining=draining,
                blocked=self._engine.blocked_reason() is not None,
                uptime_seconds=now - self._began,
                emails_done=done,
                emails_per_second=round((done - before) / max(now - since, 0.001), 1),
                batches=tuple(self._worker.progress()),
                relays=tuple(
                    RelayHealth(
                        name=relay.name,
                        state=relay.state,
                        connections=relay.connections,
                        in_flight=relay.in_flight,
                        reason=relay.reason[:REPLY_KEPT],
                    )
                    for relay in self._engine.status()
                ),
            )
        )

"""Dispatcher and watchdog in the test's own process, on a real ledger and a bus that records events."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

from services.dispatcher.dispatcher import Dispatcher
from services.dispatcher.metrics import DispatcherMetrics
from services.watchdog import sweep
from services.watchdog.heartbeats import Heartbeats
from services.watchdog.metrics import WatchdogMetrics
from services.watchdog.watchdog import Watchdog
from shared.bus import Bus
from shared.ledger import instances
from shared.ledger.database import Ledger
from shared.metrics import Metrics
from shared.settings import DispatcherSettings, WatchdogSettings, load
from tests.support.ledger import RecordedBus


@asynccontextmanager
async def ledger_at(url: str) -> AsyncIterator[Ledger]:
    ledger = Ledger(url, pool_size=6)
    try:
        yield ledger
    finally:
        await ledger.close()


async def register_sender(ledger: Ledger, capacity: int, instance: str = "sender-1@test") -> None:
    """Records a live sender with this capacity."""
    async with ledger.write() as connection:
        await instances.seen(connection, instance=instance, service="sender", slots=capacity)


@dataclass
class DispatcherRig:
    dispatcher: Dispatcher
    metrics: DispatcherMetrics
    bus: RecordedBus

    @classmethod
    def on(cls, ledger: Ledger, **settings: Any) -> "DispatcherRig":
        bus = RecordedBus()
        metrics = DispatcherMetrics(Metrics("dispatcher"), ledger)
        dispatcher = Dispatcher(load(DispatcherSettings, **settings), ledger, cast(Bus, bus), metrics)
        return cls(dispatcher, metrics, bus)

    async def round(self) -> bool:
        """Runs one round, and the jobs it starts, to the end. Returns whether it found something to do."""
        async with self.dispatcher.open():
            return await self.dispatcher.round("clock")

    async def settle(self) -> int:
        """Runs rounds until one finds nothing to do. Returns how many found something."""
        rounds = 0
        while await self.round():
            rounds += 1
            assert rounds < 1000, "the dispatcher always finds something to do"
        return rounds

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.common.registry.get_sample_value(f"vashsender_{name}", labels) or 0.0


@dataclass
class WatchdogRig:
    watchdog: Watchdog
    heartbeats: Heartbeats
    metrics: WatchdogMetrics
    bus: RecordedBus

    @classmethod
    def on(cls, ledger: Ledger, **settings: Any) -> "WatchdogRig":
        config = load(WatchdogSettings, **{"sweep_seconds": 0.001, **settings})
        heartbeats = Heartbeats(config)
        metrics = WatchdogMetrics(Metrics("watchdog"), ledger, heartbeats)
        bus = RecordedBus()
        return cls(Watchdog(config, ledger, cast(Bus, bus), metrics, heartbeats), heartbeats, metrics, bus)

    async def sweep(self) -> None:
        """Runs ticks of the sweep until a pass has ended."""
        sweeping = self.watchdog.sweeping
        passes = sweeping.passes
        while sweeping.passes == passes:
            await self.watchdog.sweep()
            await asyncio.sleep(sweep.LOOK_AGAIN_SECONDS if sweeping.only_looks_again else 0.001)

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.common.registry.get_sample_value(f"vashsender_{name}", labels) or 0.0


async def concurrently(*work: Any) -> list[Any]:
    """Runs all at the same time. Raises the first error."""
    return list(await asyncio.gather(*work))

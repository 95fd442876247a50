"""Dispatcher and watchdog as objects in the test's own process, on a real ledger and a recorded bus."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

from services.dispatcher.dispatcher import Dispatcher
from services.dispatcher.metrics import DispatcherMetrics
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


async def tell_slots(ledger: Ledger, slots: int, instance: str = "sender-1@test") -> None:
    """A sender was heard of now."""
    async with ledger.write() as connection:
        await instances.seen(connection, instance=instance, service="sender", slots=slots)


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
        """One round, and the turns it began, to their end."""
        async with self.dispatcher.open():
            return await self.dispatcher.round("clock")

    async def settle(self) -> int:
        """Rounds until one finds nothing to do; returns how many found something."""
        rounds = 0
        while await self.round():
            rounds += 1
            assert rounds < 1000, "the dispatcher does not come to rest"
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
        config = load(WatchdogSettings, **settings)
        heartbeats = Heartbeats(config)
        metrics = WatchdogMetrics(Metrics("watchdog"), ledger, heartbeats)
        bus = RecordedBus()
        return cls(Watchdog(config, ledger, cast(Bus, bus), metrics, heartbeats), heartbeats, metrics, bus)

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.common.registry.get_sample_value(f"vashsender_{name}", labels) or 0.0


async def both(*work: Any) -> list[Any]:
    """At the same time; an error of one is the test's."""
    return list(await asyncio.gather(*work))

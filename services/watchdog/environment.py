"""Metrics of what the services depend on: the broker's queues, and the disk of `VASHSENDER_VAR_DIR`."""

import asyncio
import shutil

from prometheus_client import Gauge

from shared import logs
from shared.metrics import PREFIX, Metrics
from shared.queues import NAMES, depths
from shared.settings import WatchdogSettings

LOOK_SECONDS = 2.0

log = logs.get()


class EnvironmentMetrics:
    """Read when metrics are scraped. A queue that cannot be asked has no samples: an old depth would mislead."""

    def __init__(self, common: Metrics, settings: WatchdogSettings) -> None:
        registry = common.registry
        self._settings = settings
        self._messages = Gauge(
            f"{PREFIX}_queue_messages",
            f"Messages waiting in a queue ({', '.join(NAMES)}); absent while the broker does not answer.",
            ["queue"],
            registry=registry,
        )
        self._consumers = Gauge(f"{PREFIX}_queue_consumers", "Consumers of a queue.", ["queue"], registry=registry)
        self._disk_free = Gauge(
            f"{PREFIX}_disk_free_bytes",
            "Free space of the file system that holds VASHSENDER_VAR_DIR.",
            registry=registry,
        )
        self._disk_size = Gauge(f"{PREFIX}_disk_size_bytes", "Size of that file system.", registry=registry)

    async def refresh(self) -> None:
        """Never raises."""
        try:
            usage = shutil.disk_usage(self._settings.var_dir)
            self._disk_free.set(usage.free)
            self._disk_size.set(usage.total)
            async with asyncio.timeout(LOOK_SECONDS):
                found = await depths(self._settings.broker_url, "watchdog metrics")
        except Exception as error:  # noqa: BLE001 - metrics must be readable whatever is broken
            log.warning("metrics.stale", error=f"{type(error).__name__}: {error}".splitlines()[0])
            found = []
        self._messages.clear()
        self._consumers.clear()
        for depth in found:
            if depth.exists:
                self._messages.labels(depth.name).set(depth.messages)
                self._consumers.labels(depth.name).set(depth.consumers)

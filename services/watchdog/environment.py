"""Metrics of what the services depend on: the broker's queues, and the disk of `VASHSENDER_VAR_DIR`."""

import shutil
from collections.abc import Sequence

from prometheus_client import Gauge

from shared.metrics import PREFIX, Metrics
from shared.queues import NAMES, Depth, depths
from shared.settings import WatchdogSettings


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
        """Fills the gauges. Raises what the file system and the broker raise."""
        found: Sequence[Depth] = []
        try:
            usage = shutil.disk_usage(self._settings.var_dir)
            self._disk_free.set(usage.free)
            self._disk_size.set(usage.total)
            found = await depths(self._settings.broker_url, "watchdog metrics")
        finally:
            self._show(found)

    def _show(self, found: Sequence[Depth]) -> None:
        self._messages.clear()
        self._consumers.clear()
        for depth in found:
            if depth.exists:
                self._messages.labels(depth.name).set(depth.messages)
                self._consumers.labels(depth.name).set(depth.consumers)

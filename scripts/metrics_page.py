"""Writes docs/metrics.md from the code: `python -m scripts.metrics_page`. A test checks that it is current."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from services.api.metrics import ApiMetrics
from services.dispatcher.metrics import DispatcherMetrics
from services.feedback.metrics import FeedbackMetrics
from services.sender.metrics import SenderMetrics
from services.watchdog.environment import EnvironmentMetrics
from services.watchdog.heartbeats import Heartbeats
from services.watchdog.metrics import WatchdogMetrics
from services.webhooks.metrics import WebhookMetrics
from shared.ledger.database import Ledger
from shared.metrics import Metrics
from shared.settings import SenderSettings, WatchdogSettings

FOLDER = Path(__file__).parents[1] / "docs"
PAGE = FOLDER / "metrics.md"
WORDS = FOLDER / "metrics.head.md"


def _watchdog(common: Metrics, ledger: Ledger) -> None:
    settings = WatchdogSettings()
    WatchdogMetrics(common, ledger, Heartbeats(settings))
    EnvironmentMetrics(common, settings)


SERVICES: Mapping[str, Callable[[Metrics, Ledger], object]] = {
    "sender": lambda common, _ledger: SenderMetrics(common.registry, SenderSettings()),
    "dispatcher": DispatcherMetrics,
    "watchdog": _watchdog,
    "webhooks": WebhookMetrics,
    "feedback": lambda common, _ledger: FeedbackMetrics(common.registry),
    "api": lambda common, _ledger: ApiMetrics(common.registry),
}


def registry(service: str) -> CollectorRegistry:
    """All metrics of a service, as at the start of a process."""
    common = Metrics(service)
    # Never opened: metrics only need a ledger to read later.
    SERVICES[service](common, Ledger("sqlite+aiosqlite:///unread.db", pool_size=1))
    return common.registry


def instruments(service: str = "") -> dict[str, MetricWrapperBase]:
    """A service's own metrics, or those of every service, by their name in queries."""
    shared = dict(_instruments(Metrics(service).registry))
    if not service:
        return shared
    return {name: found for name, found in _instruments(registry(service)) if name not in shared}


def page() -> str:
    """The whole of docs/metrics.md."""
    parts = [WORDS.read_text().rstrip()]
    for title, found in (
        ("Every service", instruments()),
        *((f"`{name}`", instruments(name)) for name in SERVICES),
    ):
        parts.append(f"## {title}\n")
        parts[-1] += "\n| Metric | Type | Labels | Meaning |\n|---|---|---|---|\n"
        parts[-1] += "\n".join(_row(name, instrument) for name, instrument in sorted(found.items()))
    return "\n\n".join(parts) + "\n"


def _instruments(registry: CollectorRegistry) -> Iterator[tuple[str, MetricWrapperBase]]:
    for collector in registry._collector_to_names:
        if isinstance(collector, MetricWrapperBase):
            name = collector._name + ("_total" if collector._type == "counter" else "")
            yield name, collector


def _row(name: str, instrument: MetricWrapperBase) -> str:
    labels = ", ".join(_label(instrument, place, label) for place, label in enumerate(instrument._labelnames))
    return f"| `{name}` | {instrument._type} | {labels} | {instrument._documentation} |"


def _label(instrument: MetricWrapperBase, place: int, label: str) -> str:
    """A label, with its values if they are known from the start."""
    values = dict.fromkeys(key[place] for key in instrument._metrics) if label != "version" else {}
    known = [value for value in values if value]
    return f"`{label}`" + (f" ({', '.join(known)})" if known and label != "service" else "")


def main() -> None:
    PAGE.write_text(page())


if __name__ == "__main__":
    main()

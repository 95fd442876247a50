"""The metrics of the service webhooks. The gauges are read from the ledger when metrics are scraped."""

from prometheus_client import Counter, Gauge, Histogram
from sqlalchemy import func, select
from sqlmodel import col

from shared.ledger.database import Ledger, db_now
from shared.ledger.outbox_tables import EventStream
from shared.ledger.webhook_tables import WebhookEndpoint
from shared.ledger.webhooks import EndpointState
from shared.metrics import PREFIX, Metrics, counter


class WebhookMetrics:
    """The counters, gauges and histograms of one process."""

    def __init__(self, common: Metrics, ledger: Ledger, *, publishes: bool = True) -> None:
        registry = common.registry
        self.common = common
        self._ledger = ledger
        self._publishes = publishes
        self.events = counter(
            registry,
            f"{PREFIX}_webhook_events_total",
            "Events of webhooks: `delivered`; `set_aside` because the endpoint refused that one; `forgotten`, past"
            " their retention before the endpoint took them.",
            "outcome",
            ("delivered", "set_aside", "forgotten"),
        )
        self.posts = counter(
            registry,
            f"{PREFIX}_webhook_posts_total",
            "POSTs to endpoints: `accepted`, `refused` (4xx), or `failed` in another way.",
            "outcome",
            ("accepted", "refused", "failed"),
        )
        self.post_seconds = Histogram(
            f"{PREFIX}_webhook_post_seconds", "Time until an endpoint has answered, or not.", registry=registry
        )
        self.disabled = Counter(
            f"{PREFIX}_webhooks_disabled_total", "Endpoints disabled because they failed for too long.",
            registry=registry,
        )  # fmt: skip
        self.endpoints = Gauge(
            f"{PREFIX}_webhook_endpoints",
            "Endpoints by state: `active`, `failing` (active, and the newest POST failed), `paused`, `disabled`.",
            ["state"],
            registry=registry,
        )
        self.behind = Gauge(
            f"{PREFIX}_webhook_behind_events",
            "Events that the active endpoint which is farthest behind has not got yet.",
            registry=registry,
        )
        self.failing_seconds = Gauge(
            f"{PREFIX}_webhook_failing_seconds",
            "Seconds since the first failure of the active endpoint that has failed longest; 0 if none fails.",
            registry=registry,
        )

        self.exchange_events = counter(
            registry,
            f"{PREFIX}_exchange_events_total",
            "Events of projects for the exchange: `published`; `refused` by a consumer's queue; `forgotten`, past their"
            " retention before the broker took them.",
            "outcome",
            ("published", "refused", "forgotten"),
        )
        self.exchange_behind = Gauge(
            f"{PREFIX}_exchange_behind_events",
            "Events that are not published yet, of the project with most of them; 0 if publishing is switched off.",
            registry=registry,
        )
        self.exchange_failing_seconds = Gauge(
            f"{PREFIX}_exchange_failing_seconds",
            "Seconds for which this process could publish no event; 0 if it can.",
            registry=registry,
        )

    async def refresh(self) -> None:
        """Fills the gauges."""
        table = WebhookEndpoint
        failing = col(table.failing_since).is_not(None)
        active = col(table.state) == EndpointState.ACTIVE.value
        async with self._ledger.read() as connection:
            found = await connection.execute(
                select(col(table.state), failing.label("failing"), func.count()).group_by(col(table.state), failing)
            )
            counted = [(row[0], bool(row[1]), int(row[2])) for row in found]
            worst = await connection.execute(
                select(
                    func.max(col(EventStream.last_position) - col(table.cursor)),
                    func.max(db_now() - col(table.failing_since)),
                )
                .join(EventStream, col(EventStream.project_id) == col(table.project_id))
                .where(active)
            )
            behind, seconds = worst.one()
            unpublished = await connection.scalar(
                select(func.max(col(EventStream.last_position) - col(EventStream.published_position)))
            )
        by_state = dict.fromkeys(("active", "failing", "paused", "disabled"), 0)
        for state, is_failing, number in counted:
            by_state["failing" if is_failing and state == "active" else state] += number
        for state, number in by_state.items():
            self.endpoints.labels(state).set(number)
        self.behind.set(behind or 0)
        self.exchange_behind.set((unpublished or 0) if self._publishes else 0)
        self.failing_seconds.set(seconds or 0.0)

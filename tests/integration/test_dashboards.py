"""Runs every query of every panel on a real Prometheus, while a real system sends a campaign with failures."""

import asyncio
import json
import math
from collections.abc import Mapping
from pathlib import Path

import pytest

from cli.local.ports import free_port
from scripts.dashboards.__main__ import FOLDER
from scripts.dashboards.variables import chosen, substituted
from tests.support.broker import BrokerVhost
from tests.support.prometheus import Prometheus, prometheus
from tests.support.relay import RecordingRelay
from tests.support.system import System

pytestmark = pytest.mark.more

LONG = 3600
RECIPIENTS = 1000
RATE_INTERVAL = "2m"
DASHBOARDS = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
RIGHTLY_EMPTY = {
    ("overview", "Alerts"): "no alert has to be pending or to fire in a run that goes well",
    ("overview", "Rescues and repairs"): "no batch has to be rescued in a run that goes well",
    ("campaigns", "What comes back"): "the service that takes in reports does not run here",
    ("campaigns", "Not matched, or refused at the door"): "the service that takes in reports does not run here",
}
"""Panels with a query that may return nothing here, and why."""


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


def refuse(rcpt: str, _tries: int) -> bytes | None:
    """Of ten recipients one does not exist and one is deferred."""
    number = int(rcpt.partition("@")[0].rpartition("-")[2])
    return {3: b"550 5.1.1 no such user\r\n", 7: b"451 4.2.0 later\r\n"}.get(number % 10)


@pytest.mark.timeout(300)
async def test_every_panel_has_data_and_totals_equal_the_ledger(
    system: System, broker_vhost: BrokerVhost, relay: RecordingRelay, tmp_path: Path
) -> None:
    relay.behaviour.rcpt = refuse
    relay.behaviour.seconds_per_email = 0.03
    system.service_settings["webhooks"] = {"webhook_networks": "127.0.0.1/32"}
    await system.start(senders=2)
    await system.launch("webhooks").wait_ready()
    await system.post("/webhooks", {"url": f"http://127.0.0.1:{free_port()}/"})
    targets = {
        "vashsender": {name: process.http_url.removeprefix("http://") for name, process in system.processes.items()},
        "rabbitmq": {"broker": f"127.0.0.1:{broker_vhost.broker.prometheus_port}"},
    }
    with prometheus(tmp_path / "prometheus", targets, broker_vhost.name) as server:

        async def wait(expr: str) -> None:
            await asyncio.to_thread(server.wait, expr)

        # Scraped before the campaign, so that increases are visible.
        await wait("count(up == 1) == 8")
        campaign = await system.create(RECIPIENTS, retry_delay_seconds=LONG, name="Spring news")
        await system.send(campaign)
        await system.wait_until(campaign, lambda said: said["counts"]["pending"] == 0, 120)
        counts: Mapping[str, int] = (await system.show(campaign))["counts"]
        assert (counts["sent"], counts["failed"], counts["deferred"]) == (800, 100, 100)
        await wait(f"sum(vashsender_emails_total) == {RECIPIENTS}")
        await wait("sum(vashsender_campaign_emails{status='pending'}) == 0")
        await wait("max(vashsender_backlog_emails) == 0 and max(vashsender_senders) == 2")
        await wait("max(vashsender_live_slots) == 4")
        await wait("job:vashsender_emails:rate5m{outcome='sent'} > 0")
        await wait("sum(rate(vashsender_webhook_post_seconds_count[2m])) > 0")
        await wait("sum(rabbitmq_detailed_queue_messages_ready) >= 0")

        empty = await asyncio.to_thread(panels_without_data, server)
        assert empty <= RIGHTLY_EMPTY.keys()

        await asyncio.to_thread(assert_totals, server, counts)
        connections = 'sum by (instance) (vashsender_smtp_connections{state="%s"})'
        excess = f"max_over_time(({connections % 'busy'} - {connections % 'open'})[5m:1s]) > 0"
        assert await asyncio.to_thread(server.query, excess) == [], "busy connections are open ones"


def panels_without_data(server: Prometheus) -> set[tuple[str, str]]:
    """Panels with a query that returns no series, or no number."""
    empty = set()
    for name, dashboard in DASHBOARDS.items():
        variables = chosen(server, dashboard, RATE_INTERVAL)
        for panel in dashboard["panels"]:
            for target in panel.get("targets", ()):
                found = server.query(substituted(target["expr"], variables))
                if not any(math.isfinite(float(series["value"][1])) for series in found):
                    empty.add((name, panel["title"]))
    return empty


def assert_totals(server: Prometheus, counts: Mapping[str, int]) -> None:
    recorded = by_label(server, "overview", "Recorded since the senders started", "outcome")
    for outcome in ("sent", "failed", "deferred"):
        assert recorded[outcome] == counts[outcome]
    assert by_label(server, "campaigns", "Sent", "name") == {"Spring news": counts["sent"]}
    assert by_label(server, "campaigns", "Not sent", "status") == {"failed": counts["failed"]}
    assert by_label(server, "campaigns", "Open", "status") == {"pending": 0, "deferred": counts["deferred"]}
    done = (counts["total"] - counts["deferred"]) / counts["total"]
    assert by_label(server, "campaigns", "Done", "name") == {"Spring news": pytest.approx(done)}
    assert by_label(server, "overview", "Open emails", "status") == {"pending": 0, "deferred": counts["deferred"]}
    assert by_label(server, "overview", "Senders alive", "") == {"": 2}


def by_label(server: Prometheus, name: str, title: str, label: str) -> dict[str, float]:
    """The result of the first query of a panel, by the value of a label."""
    dashboard = DASHBOARDS[name]
    panel = next(panel for panel in dashboard["panels"] if panel["title"] == title)
    found = server.query(substituted(panel["targets"][0]["expr"], chosen(server, dashboard, RATE_INTERVAL)))
    return {series["metric"].get(label, ""): float(series["value"][1]) for series in found}

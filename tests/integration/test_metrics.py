"""Metrics agree with the ledger, also across restarts as far as docs/metrics.md says."""

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.processes import ServiceProcess
from tests.support.relay import RecordingRelay
from tests.support.system import System

pytestmark = pytest.mark.more

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
LONG = 3600


def refuse(rcpt: str, _tries: int) -> bytes | None:
    """Of ten recipients one does not exist and one is deferred."""
    number = int(rcpt.partition("@")[0].rpartition("-")[2])
    return {3: b"550 5.1.1 no such user\r\n", 7: b"451 4.2.0 later\r\n"}.get(number % 10)


async def scrape(*processes: ServiceProcess) -> Samples:
    """Samples of several processes, summed by name and labels."""
    found: Samples = {}
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        for process in processes:
            text = (await client.get(f"{process.http_url}/metrics")).raise_for_status().text
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    key = sample.name, tuple(sorted(sample.labels.items()))
                    found[key] = found.get(key, 0.0) + sample.value
    return found


def total(samples: Samples, metric: str, **labels: str) -> float:
    wanted = labels.items()
    return sum(value for (found, its), value in samples.items() if found == metric and wanted <= dict(its).items())


async def test_sums_over_processes_equal_the_ledger(system: System, relay: RecordingRelay) -> None:
    relay.behaviour.rcpt = refuse
    await system.start(senders=2)
    campaign = await system.create(400, retry_delay_seconds=LONG, name="Spring news")
    await system.send(campaign)
    answer = await system.wait_until(campaign, lambda said: said["counts"]["pending"] == 0)
    counts = answer["counts"]
    assert (counts["sent"], counts["failed"], counts["deferred"]) == (320, 40, 40)

    senders = await scrape(*system.senders)
    while total(senders, "vashsender_emails_total") < 400:  # counted after the transaction is visible to the api
        senders = await scrape(*system.senders)
    for outcome, reply_class in (("sent", "2"), ("failed", "5"), ("deferred", "4")):
        counted = total(senders, "vashsender_emails_total", outcome=outcome, reply_class=reply_class)
        assert counted == total(senders, "vashsender_emails_total", outcome=outcome) == counts[outcome]
    assert total(senders, "vashsender_retries_total") == counts["deferred"]

    dispatcher = await scrape(system.processes["dispatcher"])
    shown = {"campaign": campaign, "name": "Spring news"}
    for status, number in counts.items():
        if status != "total":
            assert total(dispatcher, "vashsender_campaign_emails", status=status, **shown) == number
    assert total(dispatcher, "vashsender_open_emails", status="deferred") == counts["deferred"]
    assert total(dispatcher, "vashsender_backlog_emails") == 0  # deferred recipients are not due for an hour
    assert total(dispatcher, "vashsender_campaigns", status="sending") == 1
    assert total(dispatcher, "vashsender_oldest_unsent_seconds") > 0
    assert 0 < total(dispatcher, "vashsender_deadline_used_ratio") < 0.01

    watchdog = await scrape(system.processes["watchdog"])
    assert total(watchdog, "vashsender_senders") == 2
    assert total(watchdog, "vashsender_queue_consumers", queue="email") == 2
    assert total(watchdog, "vashsender_queue_messages", queue="dead") == 0
    assert 0 < total(watchdog, "vashsender_disk_free_bytes") < total(watchdog, "vashsender_disk_size_bytes")

    await system.post(f"/campaigns/{campaign}/cancel")
    await system.wait_closed(campaign)
    closed = await scrape(system.processes["dispatcher"])
    assert not [name for name, _ in closed if name == "vashsender_campaign_emails"]
    assert total(closed, "vashsender_open_emails") == 0


async def test_a_killed_sender_loses_only_what_was_not_scraped(system: System, relay: RecordingRelay) -> None:
    relay.behaviour.seconds_per_email = 0.03  # so that it is killed in the middle, also on a busy machine
    await system.start(senders=2)
    campaign = await system.create(3000)
    await system.send(campaign)
    await system.wait_until(campaign, lambda said: said["counts"]["sent"] > 600)
    victim = system.processes["sender-1"]
    last_seen = await scrape(victim)
    counted = total(last_seen, "vashsender_emails_total", outcome="sent")
    counted_by_all = counted + total(
        await scrape(system.processes["sender-2"]), "vashsender_emails_total", outcome="sent"
    )
    victim.kill()
    taken = len(relay.received)
    victim.launch()
    await victim.wait_ready()
    answer = await system.wait_closed(campaign)
    account = await system.reconcile(campaign)
    assert answer["counts"]["sent"] == 3000
    assert account.lost == 0

    alive = await scrape(*system.senders)
    missing = 3000 - counted - total(alive, "vashsender_emails_total", outcome="sent")
    assert 0 <= missing <= taken - counted_by_all
    assert total(alive, "vashsender_rescues_total", reason="restarted") > 0
    assert total(alive, "vashsender_lease_lost_total") == 0

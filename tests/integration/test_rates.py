"""Limits as the relay sees them: in no second more than 1.1 x rate + 1 bodies begin, whatever happened before."""

import asyncio
import time

import pytest

from tests.support.limits import most_in_a_second
from tests.support.relay import After, RecordingRelay
from tests.support.system import System

pytestmark = [pytest.mark.timeout(300), pytest.mark.more]

DOWN_SECONDS = 10.0


@pytest.fixture
async def system(system: System) -> System:
    """Two senders are at work."""
    system.settings.update(relay_rest_seconds="0.5", relay_rest_max_seconds="0.5")
    await system.start(senders=2)
    return system


def begun(relay: RecordingRelay) -> list[float]:
    """When bodies began."""
    return [at for at, _ in list(relay.first_bytes)]


async def until_begun(relay: RecordingRelay, bodies: int) -> None:
    async with asyncio.timeout(60):
        while len(relay.first_bytes) < bodies:  # noqa: ASYNC110 - another process sends
            await asyncio.sleep(0.05)


async def change(system: System, campaign: str, **fields: object) -> None:
    async with system.client() as client:
        (await client.patch(f"/campaigns/{campaign}", json=fields)).raise_for_status()


async def test_a_relay_that_was_down_for_ten_seconds_gets_no_burst(system: System, relay: RecordingRelay) -> None:
    campaign = await system.create(300, emails_per_second=20)
    await system.send(campaign)
    await until_begun(relay, 60)
    relay.stop()
    await asyncio.sleep(DOWN_SECONDS)
    relay.start()
    await system.wait_closed(campaign)
    assert (await system.reconcile(campaign)).counts["sent"] == 300
    assert most_in_a_second(begun(relay)) <= 1.1 * 20 + 1


async def test_senders_that_join_and_leave_beside_a_relay_that_is_down_cause_no_burst(
    system: System, relay: RecordingRelay
) -> None:
    """Two join while the relay is away; of the others one is killed and one stops, just when it is back."""
    campaign = await system.create(400, emails_per_second=20)
    await system.send(campaign)
    await until_begun(relay, 60)
    relay.stop()
    for name in ("sender-3", "sender-4"):
        system.launch("sender", name)
        await system.processes[name].wait_health("/health/live", 200)
    relay.start()
    system.processes["sender-1"].kill()
    await system.processes["sender-2"].stop()
    await until_begun(relay, 200)
    system.launch("sender", "sender-1")
    await system.wait_closed(campaign, 150)
    assert (await system.reconcile(campaign)).lost == 0
    assert most_in_a_second(begun(relay)) <= 1.1 * 20 + 1


async def test_emails_that_were_deferred_or_paused_get_no_burst(system: System, relay: RecordingRelay) -> None:
    """All are deferred at first, and due again together; then a pause; then all goes on."""
    relay.behaviour.dot = lambda _rcpt, tries: After.ACCEPT if tries else b"451 4.2.0 later\r\n"
    campaign = await system.create(120, emails_per_second=20, retry_delay_seconds=1)
    await system.send(campaign)
    await until_begun(relay, 60)
    await system.post(f"/campaigns/{campaign}/pause")
    await asyncio.sleep(2.0)
    await system.post(f"/campaigns/{campaign}/resume")
    await system.wait_closed(campaign)
    assert (await system.reconcile(campaign)).counts["sent"] == 120
    assert len(begun(relay)) == 240
    assert most_in_a_second(begun(relay)) <= 1.1 * 20 + 1


async def test_a_changed_rate_takes_hold_within_about_a_second(system: System, relay: RecordingRelay) -> None:
    """Of batches too that were cut and claimed at the old rate."""
    campaign = await system.create(250, emails_per_second=40)
    await system.send(campaign)
    await until_begun(relay, 60)
    await change(system, campaign, emails_per_second=5)
    changed = time.monotonic()
    await until_begun(relay, len(relay.first_bytes) + 20)
    slow = [at for at in begun(relay) if at > changed + 1.0]
    assert most_in_a_second(slow) <= 1.1 * 5 + 1
    await change(system, campaign, emails_per_second=1000)
    await system.wait_closed(campaign, 30.0)  # at 5 a second it would take longer
    assert most_in_a_second([at for at in begun(relay) if at < changed]) <= 1.1 * 40 + 1


async def set_limit(system: System, scope: str, **fields: object) -> None:
    async with system.client() as client:
        (await client.put(f"/limits/{scope}", json=fields)).raise_for_status()


async def test_a_relay_and_a_project_keep_their_limits_over_all_campaigns(
    system: System, relay: RecordingRelay
) -> None:
    """Two campaigns, two senders; one campaign has its own limit."""
    await set_limit(system, "relay:127.0.0.1", emails_per_second=30)
    await set_limit(system, "project", emails_per_second=20)
    campaigns = [await system.create(60), await system.create(60, emails_per_second=15)]
    for campaign in campaigns:
        await system.send(campaign)
    await until_begun(relay, 60)
    await set_limit(system, "project", emails_per_second=500)
    for campaign in campaigns:
        await system.wait_closed(campaign)
        assert (await system.reconcile(campaign)).counts["sent"] == 60
    assert most_in_a_second(begun(relay)[:60]) <= 1.1 * 20 + 1
    assert most_in_a_second(begun(relay)) <= 1.1 * 30 + 1


@pytest.mark.parametrize("scope", ["relay:127.0.0.1", "project"])
async def test_what_is_over_a_daily_cap_waits_and_says_so(system: System, relay: RecordingRelay, scope: str) -> None:
    await set_limit(system, scope, emails_per_day=25)
    campaign = await system.create(60)
    await system.send(campaign)
    shown = await system.wait_until(campaign, lambda now: now["blocked_by"] and now["counts"]["sent"] == 25)
    assert "the limit of 25 emails a day is used up" in shown["blocked_by"]
    assert len(begun(relay)) == 25
    await set_limit(system, scope, emails_per_day=100)
    await system.wait_closed(campaign)
    assert (await system.reconcile(campaign)).counts["sent"] == 60

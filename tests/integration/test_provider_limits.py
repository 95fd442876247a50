"""Limits of providers as the relay sees them: two senders together keep them, and all other emails go on."""

from typing import Any

import pytest

from tests.support.limits import most_at_once, most_in_a_second
from tests.support.relay import RecordingRelay
from tests.support.system import System

pytestmark = pytest.mark.more


def is_limited(recipient: str) -> bool:
    return recipient.endswith("@gmail.com")


async def waiting(system: System, campaign: str) -> list[dict[str, Any]]:
    async with system.client() as client:
        answer = await client.get(f"/campaigns/{campaign}/recipients", params={"status": "deferred", "limit": "1000"})
    found: list[dict[str, Any]] = answer.raise_for_status().json()["data"]
    return found


async def start(system: System, limits: str) -> None:
    system.settings |= {"batch_size": "100", "provider_limits": limits}
    await system.start(senders=2)


def people(number: int, domain: str) -> list[str]:
    return [f"person-{index}@{domain}" for index in range(number)]


async def test_two_senders_together_keep_the_limits_of_a_provider(system: System, relay: RecordingRelay) -> None:
    await start(system, "gmail=3:20")
    relay.behaviour.seconds_per_email = 0.02
    campaign = await system.create([*people(150, "gmail.com"), *people(300, "example.test")])
    await system.send(campaign)
    assert (await system.wait_closed(campaign))["counts"]["sent"] == 450
    account = await system.reconcile(campaign)
    assert (account.lost, account.duplicated) == (0, 0)
    assert most_at_once(email for email in list(relay.received) if is_limited(email.rcpt)) <= 3
    begun = [at for at, recipient in list(relay.first_bytes) if is_limited(recipient)]
    assert most_in_a_second(begun) <= 1.1 * 20 + 1


async def test_what_waits_for_a_provider_keeps_no_one_else(system: System) -> None:
    """500 rows at 2 a second are more than may wait in memory: the rest is deferred, without an attempt, and shows what
    it waits for. All others are sent to, also those of the same provider in another campaign."""
    await start(system, "gmail=3:2")
    large = await system.create([*people(500, "gmail.com"), *people(100, "example.test")])
    await system.send(large)
    answer = await system.wait_until(
        large, lambda now: now["counts"]["deferred"] >= 100 and now["counts"]["sent"] >= 100
    )
    assert answer["blocked_by"] is None
    held_back = await waiting(system, large)
    why = "waits for gmail: at most 3 emails in flight and 2 a second over 127.0.0.1"
    assert {one["reply"] for one in held_back} == {why}
    assert {one["attempts"] for one in held_back} == {0}
    assert {one["waiting_for"] for one in held_back} == {"gmail at 127.0.0.1"}
    assert all(one["next_attempt_at"] for one in held_back)

    others = await system.create(people(300, "example.test"))
    same = await system.create([f"other-{index}@gmail.com" for index in range(5)])
    await system.send(others)
    await system.send(same)
    assert (await system.wait_closed(others))["counts"]["sent"] == 300
    assert (await system.wait_closed(same))["counts"]["sent"] == 5
    assert (await system.show(large))["status"] == "sending"


async def test_the_share_of_a_killed_sender_goes_to_the_others(system: System, relay: RecordingRelay) -> None:
    await start(system, "gmail=1")
    relay.behaviour.seconds_per_email = 0.05
    campaign = await system.create(people(150, "gmail.com"))
    await system.send(campaign)
    await system.wait_until(campaign, lambda now: now["counts"]["sent"] >= 20)
    system.processes["sender-1"].kill()
    assert (await system.wait_closed(campaign, 110))["counts"]["sent"] == 150
    assert (await system.reconcile(campaign)).lost == 0

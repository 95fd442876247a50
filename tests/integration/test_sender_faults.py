"""Whose fault a refusal is, through the whole system: the ledger, the page's facts, the campaign's status."""

import asyncio
import time
from typing import Any

import pytest

from tests.support.relay import After, RecordingRelay
from tests.support.system import System

GREYLISTED = b"451 4.7.1 <x@example.test>: Recipient address rejected: Greylisted for 5 minutes (always)\r\n"
ACCOUNT = b"550 5.7.1 Daily SMTP relay limit exceeded for customer.\r\n"
RATE = b"550 5.2.1 The user you are trying to contact is receiving mail at a rate that prevents additional messages\r\n"


@pytest.fixture
async def system(system: System) -> System:
    """One sender. A minute of the retry schedule is a tenth of a second, but no wait is below a second."""
    system.settings |= {
        "batch_size": "100",
        "retry_schedule": "1s,1s,2s,3s,6s,12s+",
        "retry_jitter": "0",
        "relay_rest_seconds": "0.5",
        "relay_rest_max_seconds": "1",
        "provider_hold_seconds": "1",
        "provider_rest_seconds": "1",
    }
    await system.start(senders=1)
    return system


async def recipients(system: System, campaign: str, status: str) -> list[dict[str, Any]]:
    async with system.client() as client:
        answer = await client.get(f"/campaigns/{campaign}/recipients", params={"status": status, "limit": "1000"})
    found: list[dict[str, Any]] = answer.raise_for_status().json()["data"]
    return found


async def suppressed(system: System) -> int:
    async with system.client() as client:
        return len((await client.get("/suppressions")).raise_for_status().json()["data"])


async def test_greylisted_for_thirty_minutes_means_delivered(system: System, relay: RecordingRelay) -> None:
    """Scaled down: the relay lets a recipient in 3 s after its first try. Three retries would be over by then."""
    first: dict[str, float] = {}

    def greylist(rcpt: str, _tries: int) -> bytes | None:
        return GREYLISTED if time.monotonic() - first.setdefault(rcpt, time.monotonic()) < 3 else None

    relay.behaviour.rcpt = greylist
    campaign = await system.create(20)
    await system.send(campaign)
    answer = await system.wait_until(campaign, lambda now: now["counts"]["deferred"] == 20)
    assert answer["blocked_by"] is None
    await system.wait_closed(campaign)
    account = await system.reconcile(campaign)
    assert (account.counts["sent"], account.lost, account.duplicated) == (20, 0, 0)


async def test_recipients_greylisted_for_ever_cost_no_one_else_time(system: System, relay: RecordingRelay) -> None:
    grey = [f"grey-{number}@example.test" for number in range(20)]
    relay.behaviour.rcpt = lambda rcpt, _tries: GREYLISTED if rcpt.startswith("grey") else None
    large = await system.create([*grey, *(f"person-{number}@example.test" for number in range(980))])
    await system.send(large)
    answer = await system.wait_until(large, lambda now: now["counts"]["sent"] == 980)
    assert answer["counts"]["deferred"] == 20
    small = await system.create(["one@example.test"])
    await system.send(small)
    began = time.monotonic()
    await system.wait_closed(small)
    assert time.monotonic() - began < 5
    waiting = await recipients(system, large, "deferred")
    assert {one["email"] for one in waiting} == set(grey)
    assert all(one["attempts"] >= 1 and "Greylisted" in one["reply"] and one["next_attempt_at"] for one in waiting)
    assert await suppressed(system) == 0


async def test_a_refused_account_blocks_the_campaign_and_fails_no_one(system: System, relay: RecordingRelay) -> None:
    relay.behaviour.dot = lambda _rcpt, _tries: ACCOUNT
    campaign = await system.create(300)
    await system.send(campaign)
    answer = await system.wait_until(campaign, lambda now: now["blocked_by"])
    assert "Daily SMTP relay limit exceeded" in answer["blocked_by"]
    relay.behaviour.dot = lambda _rcpt, _tries: After.ACCEPT
    answer = await system.wait_closed(campaign)
    assert answer["counts"]["sent"] == 300
    assert answer["counts"]["failed"] == 0


@pytest.mark.parametrize(
    ("step", "reply"),
    [
        ("dot", b"550 5.7.60 SMTP; Client does not have permissions to send as this sender\r\n"),
        ("rcpt", b"553 5.7.1 <news@example.test>: Sender address rejected: not owned by user bob\r\n"),
    ],
)
async def test_a_refused_sender_pauses_the_campaign_and_fails_no_one(
    system: System, relay: RecordingRelay, step: str, reply: bytes
) -> None:
    setattr(relay.behaviour, step, lambda _rcpt, _tries: reply)
    campaign = await system.create(300)
    await system.send(campaign)
    answer = await system.wait_until(campaign, lambda now: now["status"] == "paused")
    assert reply.decode().strip()[4:40] in answer["reason"]
    assert (answer["counts"]["pending"], answer["counts"]["failed"]) == (300, 0)
    setattr(relay.behaviour, step, lambda _rcpt, _tries: After.ACCEPT if step == "dot" else None)
    await system.post(f"/campaigns/{campaign}/resume")
    assert (await system.wait_closed(campaign))["counts"]["sent"] == 300


async def test_content_that_is_refused_everywhere_pauses_the_campaign(system: System, relay: RecordingRelay) -> None:
    relay.behaviour.dot = lambda _rcpt, _tries: b"554 5.7.1 Message rejected as spam\r\n"
    campaign = await system.create([f"person-{number}@domain-{number % 7}.test" for number in range(300)])
    await system.send(campaign)
    answer = await system.wait_until(campaign, lambda now: now["status"] == "paused")
    assert "rejected as spam" in answer["reason"]
    # At most 64 unrecorded results and the emails in flight can be refused before the first commit shows it.
    assert 5 <= answer["counts"]["failed"] < 100
    assert await suppressed(system) == 0


async def test_a_live_mailbox_that_receives_too_fast_is_neither_failed_nor_suppressed(
    system: System, relay: RecordingRelay
) -> None:
    relay.behaviour.rcpt = lambda rcpt, tries: RATE if rcpt.startswith("person-1@") and tries < 2 else None
    campaign = await system.create(10)
    await system.send(campaign)
    answer = await system.wait_closed(campaign)
    assert answer["counts"]["sent"] == 10
    assert await suppressed(system) == 0


async def test_a_message_above_the_size_limit_fails_its_recipient_alone(system: System, relay: RecordingRelay) -> None:
    relay.behaviour.size_limit = 4000
    campaign = await system.create(299, text="Dear {{ name|default('you') }}, " * 4)
    large = {"email": "large@example.test", "data": {"name": "A" * 1500}}
    async with system.client() as client:
        (await client.post(f"/campaigns/{campaign}/recipients", json=[large])).raise_for_status()
    await system.send(campaign)
    answer = await system.wait_closed(campaign)
    assert (answer["counts"]["sent"], answer["counts"]["failed"]) == (299, 1)
    (failed,) = await recipients(system, campaign, "failed")
    assert failed["email"] == "large@example.test"
    assert "larger than the relay takes (4000)" in failed["reply"]


async def test_a_provider_that_refuses_rests_while_all_others_are_sent_to(
    system: System, relay: RecordingRelay
) -> None:
    refusing = True
    relay.behaviour.rcpt = lambda rcpt, _tries: (
        b"421 4.7.28 unusual rate of email originating from your IP address\r\n"
        if refusing and rcpt.endswith("@gmail.com")
        else None
    )
    campaign = await system.create(
        [f"person-{number}@{'gmail.com' if number % 2 else 'example.test'}" for number in range(400)]
    )
    await system.send(campaign)
    answer = await system.wait_until(campaign, lambda now: now["counts"]["sent"] == 200)
    await asyncio.sleep(3)
    waiting = await recipients(system, campaign, "deferred")
    assert waiting
    assert {one["attempts"] for one in waiting} == {0}
    replies = [one["reply"] for one in waiting if not one["reply"].startswith("waits for gmail: ")]
    assert replies
    assert all("unusual rate" in reply for reply in replies)
    assert answer["blocked_by"] is None
    refusing = False
    answer = await system.wait_closed(campaign)
    assert answer["counts"]["sent"] == 400
    refusals = await system.processes["sender-1"].metric('vashsender_refusals_total{fault="provider"}')
    assert 3 <= refusals < 60, "a resting provider is hardly asked"

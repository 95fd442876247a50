"""The breakers through the whole system: a relay that refuses everyone, a list of dead addresses, a decision."""

import asyncio
import json
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import insert

from cli.main import run
from shared.ledger.database import Ledger, db_now
from shared.ledger.models import RelayRefusals
from tests.support.relay import RecordingRelay
from tests.support.system import System
from tests.support.waiting import until

GONE = b"550 5.1.1 User unknown\r\n"


@pytest.fixture
async def system(system: System) -> System:
    system.settings |= {"batch_size": "100", "relay_rest_seconds": "0.5", "relay_rest_max_seconds": "1"}
    return system


def people(number: int) -> list[str]:
    return [f"person-{index}@domain-{index % 10}.test" for index in range(number)]


async def suppressions(system: System) -> list[dict[str, Any]]:
    async with system.client() as client:
        answer = await client.get("/suppressions", params={"limit": "1000"})
    found: list[dict[str, Any]] = answer.raise_for_status().json()["data"]
    return found


@pytest.mark.parametrize("senders", [1, 2])
async def test_a_relay_that_refuses_everyone(system: System, relay: RecordingRelay, senders: int) -> None:
    """It fails fewer than 100 of 1,000; after mending it, everyone gets the email, and no one stays suppressed."""
    relay.behaviour.rcpt = lambda _rcpt, _tries: GONE
    await system.start(senders=senders)
    campaign = await system.create(people(1000))
    await system.send(campaign)
    paused = await system.wait_until(campaign, lambda now: now["status"] == "paused")
    assert paused["breaker"] == "relay"
    assert "550 5.1.1 User unknown" in paused["reason"]

    async with system.client() as client:
        refused = await client.post(f"/campaigns/{campaign}/resume", json={})
    assert refused.status_code == 409
    assert refused.json()["breaker"] == "relay"

    relay.behaviour.rcpt = lambda _rcpt, _tries: None
    assert relay.tries.total() < 100
    await system.resume_refused(campaign, "retry")
    closed = await system.wait_closed(campaign)
    assert closed["status"] == "finished"
    account = await system.reconcile(campaign)
    assert (account.counts["sent"], account.lost, account.duplicated) == (1000, 0, 0)
    assert await suppressions(system) == []
    assert closed["breaker"] is None


async def test_a_relay_that_refuses_a_whole_short_list(system: System, relay: RecordingRelay) -> None:
    """No recipient is open any more, and yet the campaign does not close before a person has decided."""
    relay.behaviour.rcpt = lambda _rcpt, _tries: GONE
    await system.start(senders=1)
    campaign = await system.create(people(60))
    await system.send(campaign)
    paused = await system.wait_until(campaign, lambda now: now["status"] not in ("queued", "sending"))
    assert (paused["status"], paused["breaker"]) == ("paused", "relay")
    relay.behaviour.rcpt = lambda _rcpt, _tries: None
    await system.resume_refused(campaign, "retry")
    assert (await system.wait_closed(campaign))["counts"]["sent"] == 60
    assert await suppressions(system) == []


async def test_what_was_refused_may_stay_failed(system: System, relay: RecordingRelay) -> None:
    relay.behaviour.rcpt = lambda _rcpt, _tries: GONE
    await system.start(senders=1)
    campaign = await system.create(people(300))
    await system.send(campaign)
    await system.wait_until(campaign, lambda now: now["status"] == "paused")
    in_doubt = await suppressions(system)
    assert in_doubt
    assert all(one["provisional"] for one in in_doubt)

    relay.behaviour.rcpt = lambda _rcpt, _tries: None
    other = await system.create(people(300)[:20])
    await system.send(other)
    assert (await system.wait_closed(other))["counts"]["sent"] == 20, "suppressions in doubt do not count"

    await system.resume_refused(campaign, "keep")
    closed = await system.wait_closed(campaign)
    failed = closed["counts"]["failed"]
    assert 0 < failed < 100
    assert closed["counts"]["sent"] == 300 - failed
    kept = await suppressions(system)
    assert len(kept) == failed
    assert not any(one["provisional"] for one in kept)


async def test_the_command_decides_and_removes_what_followed(
    system: System, relay: RecordingRelay, capsys: pytest.CaptureFixture[str]
) -> None:
    relay.behaviour.rcpt = lambda _rcpt, _tries: GONE
    await system.start(senders=1)
    campaign = await system.create(people(60))
    await system.send(campaign)
    await system.wait_until(campaign, lambda now: now["status"] == "paused")
    api = ("--url", system.processes["api"].http_url, "--key", system.key)

    async def command(*arguments: str) -> tuple[int, str]:
        code = await asyncio.to_thread(run, [*arguments, *api])
        return code, capsys.readouterr().out

    assert (await command("campaign", "resume", campaign))[0] == 65, "it asks"

    async def is_resumed() -> bool:
        return (await command("campaign", "resume", campaign, "--keep-refused"))[0] == 0

    await until(is_resumed)  # not before the last results are recorded
    assert (await system.wait_closed(campaign))["counts"]["failed"] == 60

    remove = (
        "suppressions",
        "remove",
        "--campaign",
        campaign,
        "--reason",
        "bounced",
        "--since",
        "2026-01-01T00:00:00Z",
    )
    code, counted = await command(*remove, "--dry-run", "--json")
    assert (code, json.loads(counted)) == (0, {"removed": 0, "matching": 60})
    assert (await command(*remove))[0] == 64, "cannot ask without a terminal"
    assert len(await suppressions(system)) == 60
    code, removed = await command(*remove, "--yes", "--json")
    assert (code, json.loads(removed)) == (0, {"removed": 60, "matching": 60})
    assert await suppressions(system) == []


async def test_a_trip_that_a_sender_could_only_record_pauses_the_campaign(
    system: System, relay: RecordingRelay, database_url: str
) -> None:
    """The sender died between the record and the pause: the dispatcher finds it."""
    relay.behaviour.seconds_per_email = 0.05
    await system.start(senders=1)
    campaign = await system.create(people(300))
    await system.send(campaign)
    await system.wait_until(campaign, lambda now: now["counts"]["sent"])
    ledger = Ledger(database_url, pool_size=1)
    try:
        async with ledger.write() as connection:
            row = {"campaign_id": UUID(campaign), "relay": "mx", "recent": "[]", "reply": "550 no"}
            await connection.execute(insert(RelayRefusals).values(**row, since=0.0, tripped_at=db_now()))
    finally:
        await ledger.close()
    paused = await system.wait_until(campaign, lambda now: now["status"] == "paused")
    assert paused["breaker"] == "relay"
    assert paused["reason"].startswith("mx refuses nearly everyone")


@pytest.mark.more
async def test_a_list_of_dead_addresses_pauses_once(system: System, relay: RecordingRelay) -> None:
    """30 % of 4,000: it pauses, a person resumes, and it goes on to its end."""
    relay.behaviour.rcpt = lambda rcpt, _tries: GONE if int(rcpt.split("@")[0][7:]) % 10 < 3 else None
    await system.start(senders=1)
    campaign = await system.create(people(4000), emails_per_second=1500)
    await system.send(campaign)
    paused = await system.wait_until(campaign, lambda now: now["status"] == "paused")
    assert paused["breaker"] == "list"
    assert "no such mailbox" in paused["reason"]
    assert paused["counts"]["sent"] + paused["counts"]["failed"] >= 1000
    await system.resume_refused(campaign, "keep")
    closed = await system.wait_closed(campaign)
    assert (closed["status"], closed["counts"]["failed"], closed["counts"]["sent"]) == ("finished", 1200, 2800)

"""A suppression bites within a second on every sender, whichever way and in whichever order it is committed."""

import asyncio
import time

import pytest
from sqlalchemy import insert

from shared import topology
from shared.ledger.database import Ledger, db_now
from shared.ledger.models import DEFAULT_PROJECT, Suppression
from tests.support.broker import BrokerVhost
from tests.support.relay import RecordingRelay
from tests.support.system import System
from tests.support.waiting import until

pytestmark = [pytest.mark.more, pytest.mark.timeout(240)]


async def test_a_long_transaction_a_list_and_a_broker_without_queues(
    system: System, ledger: Ledger, broker_vhost: BrokerVhost, relay: RecordingRelay
) -> None:
    """Two senders are at work, and most emails wait for a provider. A transaction inserts suppressions, others are
    committed before it, and nothing comes through the broker."""
    system.settings |= {"batch_size": "100", "provider_limits": "gmail=2"}
    await system.start(senders=2)
    relay.behaviour.seconds_per_email = 0.1
    people = [f"person-{number}@{'gmail.com' if number % 3 else 'example.test'}" for number in range(900)]
    campaign = await system.create(people)
    await system.send(campaign)
    await until(lambda: len(relay.received) > 30)
    for queue in ("email", "default", "campaigns"):
        broker_vhost.unbind(topology.EXCHANGE, queue)

    early, late = people[100:900:4], people[102:900:4]
    committed = dict.fromkeys(early, 0.0) | dict.fromkeys(late, 0.0)
    is_begun, may_commit = asyncio.Event(), asyncio.Event()

    async def long_transaction() -> None:
        async with ledger.write() as connection:
            await connection.execute(
                insert(Suppression).values(created_at=db_now(), project_id=DEFAULT_PROJECT, reason="unsubscribed"),
                [{"email": one, "email_key": one} for one in late],
            )
            is_begun.set()
            await may_commit.wait()
        committed.update(dict.fromkeys(late, time.monotonic()))

    if ledger.is_sqlite:
        may_commit.set()  # it has one writer, so nothing is committed out of order
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(long_transaction())
        await is_begun.wait()
        await system.post("/suppressions", {"suppressions": [{"email": one} for one in early]})
        committed.update(dict.fromkeys(early, time.monotonic()))
        may_commit.set()

    answer = await system.wait_closed(campaign, 200)
    begun = list(relay.first_bytes)
    assert [one for at, one in begun if one in committed and at > committed[one] + 1.0] == []
    assert answer["counts"]["suppressed"] > 0
    assert answer["counts"]["sent"] == len(begun) == len(people) - answer["counts"]["suppressed"]

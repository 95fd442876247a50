"""Unreadable tickets end in `dead` with the reason, do no harm, and the mail is sent without them."""

import asyncio
import json

import aio_pika
import pytest
from sqlalchemy import select
from sqlmodel import col

from cli import queues
from shared import events, topology
from shared.ledger.database import Ledger
from shared.ledger.models import Timeline
from tests.support.broker import BrokerVhost
from tests.support.system import System

PATIENCE_SECONDS = 60.0
OLD_BROKERS_LIMIT = 20
"""Deliveries after which RabbitMQ 4 drops a message, where its queue says nothing else."""
POISON = {
    topology.CAMPAIGNS: (events.CampaignRequested.ROUTING_KEY, b'{"campaign_id": "nobody"}'),
    topology.EMAIL: (events.BatchReleased.ROUTING_KEY, b'{"version": 2, "batch_id": 1}'),
    topology.DEFAULT: (events.BatchFinished.ROUTING_KEY, b"not JSON"),
}
ALL = {**POISON, topology.HEARTBEATS: (events.SenderHeartbeat.ROUTING_KEY, b'{"instance": 7}')}


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


@pytest.fixture
async def system(system: System) -> System:
    """Each service once; a sender waits for its tickets, and the watchdog soon thinks that one is lost."""
    system.settings |= {"ticket_patience_seconds": "3600", "ticket_lost_seconds": "2", "heartbeat_seconds": "1"}
    await system.start(senders=1)
    return system


async def dead(vhost: BrokerVhost, number: int) -> list[queues.DeadMessage]:
    """The dead messages, once there are so many."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            found = await queues.dead(vhost.admin_url, 100)
            if len(found) >= number:
                return found
            await asyncio.sleep(0.2)


async def test_poison_on_every_queue_ends_in_dead_and_mail_goes_on(system: System, broker_vhost: BrokerVhost) -> None:
    connection = await aio_pika.connect(broker_vhost.admin_url)
    async with connection:
        channel = await connection.channel()
        exchange = await channel.get_exchange(topology.EXCHANGE, ensure=False)
        for routing_key, body in ALL.values():
            await exchange.publish(aio_pika.Message(body, content_type="application/json"), routing_key)
        found = await dead(broker_vhost, len(ALL))
        assert {(message.queue, message.event, message.body.encode()) for message in found} == {
            (queue, routing_key, body) for queue, (routing_key, body) in ALL.items()
        }
        assert {message.queue: message.reason for message in found} == {
            **dict.fromkeys(POISON, "delivery_limit"),
            topology.HEARTBEATS: "refused",
        }
        assert all(message.why and message.died_at for message in found), found
        for name, service in (("dispatcher", "campaign.requested"), ("sender-1", "batch.released")):
            failed = await system.processes[name].metric(
                f'vashsender_events_consumed_total{{event="{service}",outcome="error"}}'
            )
            assert failed in (0.0, topology.DELIVERY_LIMIT + 1), "what cannot be read never comes to a handler"
        for _ in range(OLD_BROKERS_LIMIT + 2):
            await queues.dead(broker_vhost.admin_url, 100)
        seen_often = await dead(broker_vhost, len(ALL))
        assert sorted(seen_often, key=repr) == sorted(found, key=repr), "to look at them changes nothing"

        campaign = await system.create(200)
        await system.send(campaign)
        assert (await system.wait_closed(campaign))["counts"]["sent"] == 200
        beats = await system.processes["watchdog"].metric(
            'vashsender_events_consumed_total{event="sender.heartbeat",outcome="ok"}'
        )
        assert beats > 0, "an unreadable heartbeat does not block others"

        assert await queues.replay(broker_vhost.admin_url, 100) == len(ALL)
        again = await dead(broker_vhost, len(ALL))
        assert {message.queue for message in again} == set(ALL), "they are as they were"


async def test_a_batch_whose_ticket_is_poison_is_sent_all_the_same(
    system: System, broker_vhost: BrokerVhost, sqlite_url: str
) -> None:
    broker_vhost.unbind(topology.EXCHANGE, topology.EMAIL)
    campaign = await system.create(50)
    await system.send(campaign)
    ledger = Ledger(sqlite_url, pool_size=1)
    connection = await aio_pika.connect(broker_vhost.admin_url)
    async with connection:
        channel = await connection.channel()
        queue = await channel.get_queue(topology.EMAIL, ensure=False)
        exchange = await channel.get_exchange(topology.EXCHANGE, ensure=False)
        for batch_id in await _released(ledger):
            spoiled = {"version": 99, "batch_id": batch_id, "campaign_id": campaign, "generation": 1}
            message = aio_pika.Message(json.dumps(spoiled).encode(), content_type="application/json")
            await channel.default_exchange.publish(message, topology.EMAIL)
        [died, *_] = await dead(broker_vhost, 1)
        assert (died.queue, died.reason) == (topology.EMAIL, "delivery_limit")
        await queue.bind(exchange, events.BatchReleased.ROUTING_KEY)
        assert (await system.wait_closed(campaign))["counts"]["sent"] == 50
    async with ledger.read() as reading:
        assert "rescued" in (await reading.execute(select(col(Timeline.kind)))).scalars().all()
    await ledger.close()


async def _released(ledger: Ledger) -> list[int]:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            async with ledger.read() as connection:
                found = await connection.exec_driver_sql("SELECT id FROM batch WHERE state = 'released'")
                if ids := [row[0] for row in found]:
                    return ids
            await asyncio.sleep(0.05)

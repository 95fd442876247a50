"""The topology is declared in one step by a separate account. Messages that cannot be handled go to `dead`."""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from uuid import uuid4

import aio_pika
import pytest
from aiormq.abc import FieldTable
from aiormq.exceptions import ChannelAccessRefused

from cli.local.broker import PrivateBroker
from shared import topology
from shared.bus import Bus
from shared.events import EVENTS, BatchReleased, CampaignRequested
from shared.metrics import Metrics
from tests.support.broker import BrokerVhost, new_vhost
from tests.support.waiting import until

RABBITMQCTL = "/usr/lib/rabbitmq/bin/rabbitmqctl"


@pytest.fixture
async def vhost(broker_vhost: BrokerVhost) -> BrokerVhost:
    await topology.declare(broker_vhost.admin_url)
    return broker_vhost


@pytest.fixture
async def bus(vhost: BrokerVhost) -> AsyncIterator[Bus]:
    bus = Bus(vhost.services_url, Metrics("test"), name="test", publish_timeout_seconds=5)
    yield bus
    await bus.close()


async def test_declaring_twice_changes_nothing_and_misses_nothing(broker_vhost: BrokerVhost) -> None:
    assert set(await topology.check(broker_vhost.admin_url)) == {
        *(queue.name for queue in topology.QUEUES),
        *("dead", topology.EXCHANGE, topology.DEAD_EXCHANGE, topology.EVENTS_EXCHANGE),
    }
    await topology.declare(broker_vhost.admin_url)
    await topology.declare(broker_vhost.admin_url)
    assert await topology.check(broker_vhost.services_url) == []


async def test_the_services_account_may_not_configure(vhost: BrokerVhost) -> None:
    with pytest.raises(ChannelAccessRefused):
        await topology.declare(vhost.services_url)
    connection = await aio_pika.connect(vhost.services_url)
    async with connection:
        channel = await connection.channel()
        with pytest.raises(ChannelAccessRefused):
            await channel.queue_delete(topology.EMAIL)


async def test_every_event_has_a_queue(vhost: BrokerVhost, bus: Bus) -> None:
    """Published with `mandatory`: one that no queue takes would be reported as lost."""
    bus.start()
    await asyncio.wait_for(bus.connected.wait(), 30)
    keys = {key for queue in topology.QUEUES for key in queue.routing_keys}
    assert {event.ROUTING_KEY for event in EVENTS} == keys
    assert await bus.publish(CampaignRequested(campaign_id=uuid4())) is True


async def test_an_event_that_no_queue_takes_counts_as_lost(vhost: BrokerVhost, bus: Bus) -> None:
    vhost.unbind(topology.EXCHANGE, topology.CAMPAIGNS)
    bus.start()
    await asyncio.wait_for(bus.connected.wait(), 30)
    assert await bus.publish(CampaignRequested(campaign_id=uuid4())) is False


async def test_publishing_without_a_broker_says_so_and_raises_nothing() -> None:
    bus = Bus("amqp://nobody:nothing@127.0.0.1:1/none", Metrics("test"), name="test")
    bus.start()
    assert await bus.publish(CampaignRequested(campaign_id=uuid4())) is False
    assert await bus.check(1.0) != ""
    await bus.close()


@pytest.mark.parametrize("poison", [b"not JSON", b'{"version": 9}', b'{"campaign_id": "x"}', b""])
async def test_a_ticket_that_cannot_be_read_ends_in_dead_with_the_reason(
    vhost: BrokerVhost, bus: Bus, poison: bytes
) -> None:
    handled: list[BatchReleased] = []

    async def handle(ticket: BatchReleased) -> None:
        handled.append(ticket)

    bus.subscribe(topology.EMAIL, BatchReleased, handle, prefetch=2)
    bus.start()
    await asyncio.wait_for(bus.connected.wait(), 30)
    connection = await aio_pika.connect(vhost.admin_url)
    async with connection:
        channel = await connection.channel()
        exchange = await channel.get_exchange(topology.EXCHANGE, ensure=False)
        await exchange.publish(aio_pika.Message(poison, content_type="application/json"), BatchReleased.ROUTING_KEY)
        dead = await channel.get_queue(topology.DEAD, ensure=False)
        async with asyncio.timeout(30), dead.iterator() as messages:
            async for message in messages:
                await message.ack()
                break
    assert message.body == poison
    assert message.headers["x-first-death-reason"] == "delivery_limit"
    assert message.headers["x-first-death-queue"] == topology.EMAIL
    assert handled == []


async def test_a_handler_that_fails_gets_the_event_again(vhost: BrokerVhost, bus: Bus) -> None:
    tries: list[int] = []
    succeeded = asyncio.Event()

    async def handle(ticket: BatchReleased) -> None:
        tries.append(ticket.batch_id)
        if len(tries) < 3:
            raise RuntimeError("not yet")
        succeeded.set()

    bus.subscribe(topology.EMAIL, BatchReleased, handle, prefetch=2)
    bus.start()
    await asyncio.wait_for(bus.connected.wait(), 30)
    await bus.publish(BatchReleased(batch_id=7, campaign_id=uuid4(), generation=1))
    await asyncio.wait_for(succeeded.wait(), 30)
    assert tries == [7, 7, 7]


async def test_after_consuming_stops_running_handlers_finish_and_the_next_event_stays_on_the_queue(
    vhost: BrokerVhost, bus: Bus
) -> None:
    handled: list[int] = []
    running, go_on, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def handle(ticket: BatchReleased) -> None:
        running.set()
        await go_on.wait()
        handled.append(ticket.batch_id)
        done.set()

    bus.subscribe(topology.EMAIL, BatchReleased, handle, prefetch=2)
    bus.start()
    await asyncio.wait_for(bus.connected.wait(), 30)
    await bus.publish(BatchReleased(batch_id=1, campaign_id=uuid4(), generation=1))
    await asyncio.wait_for(running.wait(), 30)
    await bus.stop_consuming()
    go_on.set()
    await asyncio.wait_for(done.wait(), 30)
    # Waits for the broker, so the acknowledgement of the first one is on its way.
    assert await bus.publish(BatchReleased(batch_id=2, campaign_id=uuid4(), generation=1))
    await bus.close()
    assert handled == [1]
    assert await tickets(vhost) == [(2, False)]


async def tickets(vhost: BrokerVhost) -> list[tuple[int, bool]]:
    """Takes all tickets off the queue: batch, and whether it was delivered before."""
    found = []
    connection = await aio_pika.connect(vhost.services_url)
    async with connection:
        queue = await (await connection.channel()).get_queue(topology.EMAIL, ensure=False)
        while (message := await queue.get(fail=False)) is not None:
            await message.ack()
            found.append((BatchReleased.model_validate_json(message.body).batch_id, bool(message.redelivered)))
    return found


async def test_a_memory_alarm_of_the_broker_is_reported_until_it_is_over(own_broker: PrivateBroker) -> None:
    """Publishing never raises and never waits for long. Events that the broker does not accept count as lost, and the
    ledger's clock finds their work. No one has to act after the alarm."""
    with new_vhost(own_broker) as vhost:
        await topology.declare(vhost.admin_url)
        metrics = Metrics("test")
        bus = Bus(vhost.services_url, metrics, name="test", publish_timeout_seconds=0.5)
        event = CampaignRequested(campaign_id=uuid4())
        try:
            bus.start()
            await asyncio.wait_for(bus.connected.wait(), 30)
            assert await bus.publish(event)
            assert (await bus.check(5), value(metrics, "broker_connected")) == ("", 1)
            await watermark(own_broker, "0.0000001")
            async with asyncio.timeout(30):
                while await bus.publish(event):
                    pass
            assert await bus.check(5) == "the broker did not confirm the last event"
            assert value(metrics, "broker_connected") == 0
            assert value(metrics, "events_published_total", event=event.ROUTING_KEY, outcome="lost") == 1
            await watermark(own_broker, "absolute", "512MB")
            await until(lambda: bus.publish(event), 30)
            assert (await bus.check(5), value(metrics, "broker_connected")) == ("", 1)
        finally:
            await bus.close()


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"vashsender_{name}", labels)


async def watermark(broker: PrivateBroker, *share: str) -> None:
    command = [*broker.server_command()[:-1], RABBITMQCTL, "set_vm_memory_high_watermark", *share]
    environment = broker.environment()
    await asyncio.to_thread(subprocess.run, command, env=environment, check=True, capture_output=True, timeout=60)


async def test_a_dead_queue_with_a_delivery_limit_is_made_anew_when_it_is_empty(broker_vhost: BrokerVhost) -> None:
    """As an earlier release, or an earlier broker, has left it."""
    connection = await aio_pika.connect(broker_vhost.admin_url)
    async with connection:
        channel = await connection.channel()
        limited: FieldTable = {"x-queue-type": "quorum", "x-max-length": topology.DEAD_KEPT, "x-delivery-limit": 3}
        await channel.declare_queue(topology.DEAD, durable=True, arguments=limited)
        await channel.default_exchange.publish(aio_pika.Message(b"kept"), topology.DEAD)

        async def kept() -> int:
            queue = await channel.declare_queue(topology.DEAD, passive=True)
            return queue.declaration_result.message_count or 0

        async with asyncio.timeout(30):
            while not await kept():
                pass
        await topology.declare(broker_vhost.admin_url)
        assert await kept() == 1, "nothing is thrown away"
        message = await (await channel.get_queue(topology.DEAD, ensure=False)).get(no_ack=True)
        assert message is not None
        await topology.declare(broker_vhost.admin_url)
        arguments = broker_vhost.queue(topology.DEAD)["arguments"]
        assert arguments.get("x-delivery-limit", topology.UNLIMITED) == topology.UNLIMITED
        assert topology.major_version(connection) >= 3

"""Whatever takes a consumer from its queue, by force on a real broker: events come again without anyone acting."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID

import aio_pika
import aiormq
import pytest
from aiormq import spec

from shared import broker, consumers, lasting_broker, topology
from shared.broker import LastingConnection
from shared.bus import Bus
from shared.events import CampaignRequested
from shared.metrics import Metrics
from tests.integration.test_broker_servers import at_ports
from tests.support.broker import BrokerVhost
from tests.support.proxy import Proxy
from tests.support.waiting import until

NIL = UUID(int=0)
PREFETCH = 2
SECONDS = 60.0


class Services:
    """A bus that consumes `campaigns`, and publishes into it on request."""

    def __init__(self, url: str, admin_url: str) -> None:
        self.admin_url = admin_url
        self.bus = Bus(url, Metrics("test"), name="test", publish_timeout_seconds=1.0)
        #: Events that were handled.
        self.came = 0
        self.bus.subscribe(topology.CAMPAIGNS, CampaignRequested, self._on_event, prefetch=PREFETCH)

    async def _on_event(self, _event: CampaignRequested) -> None:
        self.came += 1

    async def start(self) -> None:
        self.bus.start()
        await asyncio.wait_for(self.bus.connected.wait(), SECONDS)
        await self.must_be_served()

    async def must_be_served(self) -> None:
        """Returns once an event that is published from now on is handled, and the watch goes on."""
        before = self.came

        async def is_served() -> bool:
            await self.bus.publish(CampaignRequested(campaign_id=NIL))
            return self.came > before

        async def is_watched() -> bool:
            try:
                return await self.bus._consumer.count_ready(topology.CAMPAIGNS) >= 0
            except (aiormq.AMQPError, OSError):  # the watch may have just left the connection
                return False

        await until(is_served, SECONDS)
        await until(is_watched, SECONDS)

    async def channel(self) -> aiormq.Channel:
        """The consumer's channel."""
        channel = await self.robust_channel().get_underlay_channel()
        assert isinstance(channel, aiormq.Channel)
        return channel

    def robust_channel(self) -> aio_pika.RobustChannel:
        queue: Any = self.bus._subscribers[0]._queue_obj
        assert isinstance(queue.channel, aio_pika.RobustChannel)
        return queue.channel

    def transport(self) -> asyncio.WriteTransport:
        """What the consuming connection uses now."""
        transport = self.bus._consumer.transport
        assert transport is not None
        return transport

    async def delete_queue(self) -> None:
        async with await broker.connect(self.admin_url) as connection:
            channel = await connection.channel()
            await channel.queue_delete(topology.CAMPAIGNS)

    async def declare_queue(self) -> None:
        await topology.declare(self.admin_url)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumers, "LOOK_SECONDS", 0.3)
    monkeypatch.setattr(consumers, "PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(lasting_broker, "ANSWER_SECONDS", 2.0)


@pytest.fixture
async def services(broker_vhost: BrokerVhost) -> AsyncIterator[Services]:
    await topology.declare(broker_vhost.admin_url)
    services = Services(broker_vhost.services_url, broker_vhost.admin_url)
    await services.start()
    yield services
    await services.bus.close()


async def test_the_queue_is_deleted_and_declared_again(services: Services) -> None:
    """The broker cancels the consumer."""
    channel = await services.channel()
    await services.delete_queue()
    await until(lambda: not channel.consumers)
    await services.declare_queue()
    await services.must_be_served()


async def test_the_broker_closes_the_channel(services: Services) -> None:
    channel = await services.channel()
    await channel.basic_ack(999, wait=False)
    await until(lambda: channel.is_closed)
    await services.must_be_served()


async def test_the_broker_closes_the_channel_while_its_queue_is_gone(services: Services) -> None:
    """The channel cannot be opened again at once, and nothing tries a second time but the watch."""
    channel = await services.channel()
    await services.delete_queue()
    await until(lambda: not channel.consumers)
    await channel.basic_ack(999, wait=False)
    await until(lambda: channel.is_closed)
    await services.declare_queue()
    await services.must_be_served()


async def test_an_administrator_closes_every_connection(services: Services, broker_vhost: BrokerVhost) -> None:
    transport = services.transport()
    await until(lambda: asyncio.to_thread(broker_vhost.close_connections))
    await until(lambda: transport.is_closing() or services.transport() is not transport)
    await services.must_be_served()


async def test_the_broker_has_no_consumer_though_it_seems_to_run(services: Services) -> None:
    channel = await services.channel()
    (tag,) = channel.consumers
    await channel.rpc(spec.Basic.Cancel(consumer_tag=tag))
    channel.consumers[tag] = _lost  # as if it had not ended
    await services.must_be_served()


async def test_events_are_delivered_that_never_come(services: Services) -> None:
    """They use up the prefetch. They come again, and those behind them."""
    channel = await services.channel()
    (tag,) = channel.consumers
    channel.consumers[tag] = _lost
    before = services.came
    for _ in range(PREFETCH + 1):
        assert await services.bus.publish(CampaignRequested(campaign_id=NIL))
    await until(lambda: services.came >= before + PREFETCH + 1, SECONDS)


async def test_a_new_connection_gets_no_answer_to_its_request_for_a_consumer(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is given up, and the next one is served."""
    monkeypatch.setattr(broker, "RESTORE_SECONDS", 1.0)
    consume, asked = aiormq.Channel.basic_consume, asyncio.Event()

    async def never_answer(*_: Any, **__: Any) -> None:
        asked.set()
        monkeypatch.setattr(aiormq.Channel, "basic_consume", consume)
        await asyncio.Event().wait()

    monkeypatch.setattr(aiormq.Channel, "basic_consume", never_answer)
    services.transport().abort()
    await asyncio.wait_for(asked.wait(), SECONDS)
    await services.must_be_served()


async def test_a_connection_breaks_while_its_channels_are_opened(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task that makes connections waits for the connection then, which it alone could make."""
    monkeypatch.setattr(broker, "READY_SECONDS", 1.0)
    ready, broken = LastingConnection.ready, asyncio.Event()

    async def break_first(connection: LastingConnection) -> None:
        if connection.transport is not None and connection is services.bus._consumer._connection:
            monkeypatch.setattr(LastingConnection, "ready", ready)
            services.transport().abort()
            await until(lambda: not connection.connected.is_set())
            broken.set()
        await ready(connection)

    monkeypatch.setattr(LastingConnection, "ready", break_first)
    services.transport().abort()
    await asyncio.wait_for(broken.wait(), SECONDS)
    await services.must_be_served()


@pytest.fixture
def doors(broker_vhost: BrokerVhost) -> Iterator[list[Proxy]]:
    doors = [Proxy(broker_vhost.broker.amqp_port), Proxy(broker_vhost.broker.amqp_port)]
    for door in doors:
        door.start()
    yield doors
    for door in doors:
        door.stop()


async def test_the_server_of_the_consumer_falls_silent(broker_vhost: BrokerVhost, doors: list[Proxy]) -> None:
    """It is left for the other one, before AMQP's heartbeat would notice."""
    await topology.declare(broker_vhost.admin_url)
    services = Services(at_ports(broker_vhost.services_url, [door.port for door in doors]), broker_vhost.admin_url)
    await services.start()
    try:
        used = services.transport().get_extra_info("peername")[1]
        next(door for door in doors if door.port == used).cut()
        await services.must_be_served()
    finally:
        await services.bus.close()


async def _lost(_message: object) -> None:
    """What the broker delivers does not come."""

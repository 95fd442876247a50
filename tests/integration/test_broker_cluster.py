"""A queue of three brokers loses its leader: what publishes and consumes goes on, though the broker misleads it."""

import asyncio
import signal
from collections.abc import Iterator
from uuid import UUID

import pytest
from aio_pika.exceptions import DeliveryError

from cli.local.broker_files import SERVICES
from shared import topology
from shared.bus import Bus
from shared.events import CampaignRequested
from shared.metrics import Metrics
from tests.chaos.servers import running_cluster
from tests.integration.test_broker_servers import at_ports
from tests.support.broker import BrokerVhost, new_vhost
from tests.support.broker_cluster import BrokerCluster, ClusterNode
from tests.support.run import TestRun
from tests.support.waiting import until

pytestmark = [pytest.mark.more, pytest.mark.timeout(400)]

EVENT = CampaignRequested(campaign_id=UUID(int=0))


@pytest.fixture(scope="module")
def cluster(run: TestRun) -> Iterator[BrokerCluster]:
    with running_cluster(run) as cluster:
        yield cluster


@pytest.fixture
def vhost(cluster: BrokerCluster) -> Iterator[BrokerVhost]:
    with new_vhost(cluster.nodes[0]) as vhost:
        yield vhost


@pytest.fixture
async def roles(cluster: BrokerCluster, vhost: BrokerVhost) -> tuple[ClusterNode, ClusterNode, ClusterNode]:
    """The node that leads `campaigns`, and the other two."""
    await topology.declare(vhost.admin_url)
    leader = await asyncio.to_thread(cluster.leader, vhost.name, topology.CAMPAIGNS)
    one, other = (node for node in cluster.nodes if node is not leader)
    return leader, one, other


async def test_a_channel_that_began_without_a_leader_publishes_once_there_is_one(
    cluster: BrokerCluster, vhost: BrokerVhost, roles: tuple[ClusterNode, ClusterNode, ClusterNode]
) -> None:
    """Its first event for the queue comes before the election, which waits here for a stopped node. RabbitMQ then
    refuses all its events for that queue for as long as the dead node is away."""
    leader, stopped, used = roles
    bus = Bus(at_ports(used.amqp_url(SERVICES, vhost.name), [used.amqp_port]), Metrics("test"), name="test")
    bus.start()
    try:
        await asyncio.wait_for(bus.connected.wait(), 60)
        stopped.signal(signal.SIGSTOP)
        try:
            await asyncio.to_thread(leader.kill)
            with pytest.raises(DeliveryError):
                await bus._publisher.publish(EVENT, exchange=bus._exchange, routing_key=EVENT.ROUTING_KEY, timeout=60)
        finally:
            stopped.signal(signal.SIGCONT)
        await until(lambda: bus.publish(EVENT), 120)
    finally:
        await bus.close()
        await asyncio.to_thread(leader.start)
        await asyncio.to_thread(leader.wait_ready)
        await asyncio.to_thread(cluster.wait_whole)

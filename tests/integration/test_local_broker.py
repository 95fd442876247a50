"""The private RabbitMQ node: accounts, loopback, stop, kill, and no process left behind."""

import subprocess
from pathlib import Path

import aio_pika
import pytest
from aiormq.exceptions import ChannelAccessRefused

from cli.local.broker import PrivateBroker
from cli.local.ports import PortTakenError, free_ports, is_free
from shared import topology
from tests.support.broker import BrokerVhost
from tests.support.run import TestRun
from tests.support.running import listening_addresses, name_of
from tests.support.waiting import wait_for

pytestmark = pytest.mark.more

ROOT = Path(__file__).parents[2]


async def test_services_publish_and_consume_but_may_not_configure(broker_vhost: BrokerVhost) -> None:
    await topology.declare(broker_vhost.admin_url)
    connection = await aio_pika.connect(broker_vhost.services_url)
    async with connection:
        channel = await connection.channel(on_return_raises=True)
        exchange = await channel.get_exchange(topology.EXCHANGE, ensure=False)
        routing_key = topology.QUEUES[0].routing_keys[0]
        await exchange.publish(aio_pika.Message(b"{}"), routing_key, mandatory=True, timeout=10)
        queue = await channel.get_queue(topology.QUEUES[0].name, ensure=False)
        message = await queue.get(timeout=10)
        assert message is not None
        await message.ack()
        with pytest.raises(ChannelAccessRefused):
            await channel.declare_queue("mine", durable=True)


async def test_a_bound_queue_can_be_unbound(broker_vhost: BrokerVhost) -> None:
    await topology.declare(broker_vhost.admin_url)
    broker_vhost.unbind(topology.EXCHANGE, topology.HEARTBEATS)
    bindings = broker_vhost.api.get(f"/bindings/{broker_vhost.name}/e/{topology.EXCHANGE}/q/{topology.HEARTBEATS}")
    assert bindings.json() == []


def test_there_is_no_account_guest(broker_vhost: BrokerVhost) -> None:
    assert {user["name"] for user in broker_vhost.api.get("/users").json()} == {"admin", "services"}


def test_everything_listens_on_loopback_only(broker: PrivateBroker) -> None:
    processes = broker.processes()
    assert set(map(name_of, processes)) >= {"beam.smp", "epmd"}
    addresses = listening_addresses(processes)
    assert addresses
    assert addresses <= {"127.0.0.1", "::1"}


def test_secrets_are_readable_by_their_owner_only(broker: PrivateBroker, tmp_path: Path) -> None:
    broker.leave_addresses(tmp_path)
    secrets = [
        tmp_path / "amqp_url",
        tmp_path / "amqp_admin_url",
        broker.data_dir / "secrets" / "admin",
        broker.data_dir / "secrets" / "services",
        broker.data_dir / "home" / ".erlang.cookie",
        broker.data_dir / "conf" / "definitions.json",
    ]
    assert {path.stat().st_mode & 0o077 for path in secrets} == {0}


def test_an_occupied_port_is_reported_with_its_process(broker: PrivateBroker, tmp_path: Path) -> None:
    second = PrivateBroker(tmp_path / "second", broker.amqp_port, *free_ports(4))
    with pytest.raises(PortTakenError, match=rf"port {broker.amqp_port} .* taken by beam.smp \(pid \d+"):
        second.start()
    assert not second.is_running


def test_a_supervised_broker_replaces_the_node_of_a_killed_supervisor(run: TestRun) -> None:
    broker = run.new_broker("supervised")
    with subprocess.Popen(broker.command(), cwd=ROOT) as first:
        broker.wait_ready()
        first.kill()
    left = {process.pid for process in broker.processes()}
    assert left
    with subprocess.Popen(broker.command(), cwd=ROOT) as second:
        wait_for(lambda: not left & {process.pid for process in broker.processes()})
        broker.wait_ready()
        second.terminate()
        assert second.wait(timeout=60) == 0
    assert broker.processes() == []


async def test_messages_survive_a_kill_and_stop_leaves_no_process(own_broker: PrivateBroker) -> None:
    await topology.declare(own_broker.amqp_url("admin"))
    connection = await aio_pika.connect(own_broker.amqp_url())
    async with connection:
        channel = await connection.channel()
        exchange = await channel.get_exchange(topology.EXCHANGE, ensure=False)
        await exchange.publish(aio_pika.Message(b"kept"), topology.QUEUES[1].routing_keys[0], timeout=10)
        own_broker.kill()
    own_broker.start()
    own_broker.wait_ready()
    connection = await aio_pika.connect(own_broker.amqp_url())
    async with connection:
        channel = await connection.channel()
        queue = await channel.get_queue(topology.QUEUES[1].name, ensure=False)
        message = await queue.get(timeout=10)
        assert message is not None
        assert message.body == b"kept"
        await message.ack()
    own_broker.stop()
    assert own_broker.processes() == []
    ports = (own_broker.amqp_port, own_broker.management_port, own_broker.prometheus_port)
    assert all(is_free(port) for port in (*ports, own_broker.dist_port, own_broker.epmd_port))

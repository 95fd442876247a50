"""A broker with several addresses, some down or never answering: connections find the one that works."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial
from uuid import UUID

import pytest
from aiormq.exceptions import AMQPConnectionError

from cli.local.ports import LOOPBACK, free_port
from shared import broker, queues, topology
from shared.bus import Bus
from shared.events import CampaignRequested
from shared.metrics import Metrics
from tests.support.broker import BrokerVhost
from tests.support.proxy import Proxy
from tests.support.waiting import until

pytestmark = pytest.mark.more

NIL = UUID(int=0)


@pytest.fixture
async def silent_port() -> AsyncIterator[int]:
    """A port that takes connections and never answers, like a stopped process."""
    writers: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: writers.append(writer), LOOPBACK, 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    for writer in writers:
        writer.close()


def at_ports(url: str, ports: Sequence[int]) -> str:
    """The URL with one host for each of these ports of this machine."""
    account, _, rest = url.rpartition("@")
    hosts = ",".join(f"{LOOPBACK}:{port}" for port in ports)
    return f"{account}@{hosts}/{rest.partition('/')[2]}"


async def test_commands_find_the_server_that_answers(
    broker_vhost: BrokerVhost, silent_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker, "CONNECT_SECONDS", 1.0)
    url = at_ports(broker_vhost.admin_url, [free_port(), silent_port, broker_vhost.broker.amqp_port])
    await topology.declare(url)
    assert await topology.check(url) == []
    assert all(depth.exists for depth in await queues.depths(url, "test"))
    nowhere = at_ports(broker_vhost.admin_url, [free_port(), free_port()])
    with pytest.raises(OSError, match=r"refused.*refused"):
        await broker.connect(nowhere)


async def test_a_name_leads_to_the_address_that_answers(
    broker_vhost: BrokerVhost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One name with three addresses: one refuses, one never answers, one is the broker."""
    monkeypatch.setattr(broker, "CONNECT_SECONDS", 1.0)
    port, refusing, silent, answering = free_port(), "127.0.0.2", "127.0.0.3", "127.0.0.4"
    writers: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: writers.append(writer), silent, port)
    door = Proxy(broker_vhost.broker.amqp_port, answering, port)
    door.start()

    async def resolve(host: str, port: int, **_how: object) -> list[object]:
        assert host == "mq.test"
        return [(2, 1, 6, "", (ip, port)) for ip in (refusing, silent, answering)]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    account, _, rest = broker_vhost.admin_url.rpartition("@")
    try:
        for _ in range(3):  # each begins with a random address
            await topology.declare(f"{account}@mq.test:{port}/{rest.partition('/')[2]}")
    finally:
        door.stop()
        server.close()
        for writer in writers:
            writer.close()


def _says(bus: Bus, words: str) -> bool:
    return words in bus.state


async def test_a_refused_virtual_host_is_told_in_the_brokers_words(broker_vhost: BrokerVhost) -> None:
    account, _, name = broker_vhost.services_url.rpartition("/")
    forbidden, missing = f"{name}-forbidden", f"{name}-missing"
    broker_vhost.api.put(f"/vhosts/{forbidden}").raise_for_status()
    for vhost, words in (
        (missing, f"vhost {missing} not found"),
        (forbidden, f"access to vhost '{forbidden}' refused"),
    ):
        url = f"{account}/{vhost}"
        with pytest.raises(AMQPConnectionError, match=words):
            await broker.connect(url)
        bus = Bus(url, Metrics("test"), name="test")
        bus.start()
        try:
            await until(partial(_says, bus, words))
            assert bus.state.startswith("the broker refused the connection: NOT_ALLOWED")
            assert words in await bus.check(1.0)
        finally:
            await bus.close()
    broker_vhost.api.delete(f"/vhosts/{forbidden}").raise_for_status()


async def test_a_bus_goes_on_with_another_server(broker_vhost: BrokerVhost, silent_port: int) -> None:
    """Its server is cut off without a word: an event that is not confirmed makes it change to one that answers."""
    await topology.declare(broker_vhost.admin_url)
    doors = [Proxy(broker_vhost.broker.amqp_port), Proxy(broker_vhost.broker.amqp_port)]
    for door in doors:
        door.start()
    bus = Bus(
        at_ports(broker_vhost.services_url, [silent_port, *(door.port for door in doors)]),
        Metrics("test"),
        name="test",
        publish_timeout_seconds=1.0,
    )
    came = asyncio.Event()

    async def on_event(_event: CampaignRequested) -> None:
        came.set()

    bus.subscribe(topology.CAMPAIGNS, CampaignRequested, on_event, prefetch=1)
    bus.start()
    try:
        async with asyncio.timeout(60):
            await bus.connected.wait()
            assert await bus.publish(CampaignRequested(campaign_id=NIL))
            used = next(door for door in doors if door.port == _port(bus))
            used.cut()
            await until(lambda: bus.publish(CampaignRequested(campaign_id=NIL)))
            assert _port(bus) not in (used.port, silent_port)
            await came.wait()
    finally:
        await bus.close()
        for door in doors:
            door.stop()


def _port(bus: Bus) -> int:
    transport = bus._publisher.servers.transport
    assert transport is not None
    port: int = transport.get_extra_info("peername")[1]
    return port

"""The broker says whose account published an event. Where each service has its own, other accounts are not believed."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from unittest.mock import AsyncMock
from uuid import UUID, uuid4

import aio_pika
import pytest
from aiormq.exceptions import ChannelPreconditionFailed
from yarl import URL

from cli import queues
from shared import topology
from shared.bus import Bus
from shared.events import CampaignRequested, SenderHeartbeat
from shared.metrics import Metrics
from shared.reception import KEPT_BYTES, Reception
from tests.support.broker import BrokerVhost
from tests.support.waiting import until

EVERYTHING = {"configure": ".*", "write": ".*", "read": ".*"}
PATIENCE_SECONDS = 30.0


class Accounts:
    """A separate account for each service, on a broker that restricts none of them."""

    def __init__(self, vhost: BrokerVhost) -> None:
        self.vhost = vhost
        self.prefix = uuid4().hex[:8]

    def url(self, role: str) -> str:
        name = f"{self.prefix}_{role}"
        self.vhost.api.put(f"/users/{name}", json={"password": "secret", "tags": ""}).raise_for_status()
        self.vhost.api.put(f"/permissions/{self.vhost.name}/{name}", json=EVERYTHING).raise_for_status()
        return str(URL(self.vhost.services_url).with_user(name).with_password("secret"))

    def remove(self) -> None:
        names = [user["name"] for user in self.vhost.api.get("/users").json()]
        mine = [name for name in names if name.startswith(self.prefix)]
        self.vhost.api.post("/users/bulk-delete", json={"users": mine}).raise_for_status()


@pytest.fixture
async def vhost(broker_vhost: BrokerVhost) -> BrokerVhost:
    await topology.declare(broker_vhost.admin_url)
    return broker_vhost


@pytest.fixture
def accounts(vhost: BrokerVhost) -> Iterator[Accounts]:
    accounts = Accounts(vhost)
    yield accounts
    accounts.remove()


@asynccontextmanager
async def bus_of(accounts: Accounts, role: str, **reception: bool) -> AsyncIterator[tuple[Bus, Metrics]]:
    url, metrics = accounts.url(role), Metrics("test")
    judge = Reception(role, url, accepts_nameless=reception.get("accepts_nameless", True))
    bus = Bus(url, metrics, name=role, publish_timeout_seconds=5, reception=judge)
    try:
        yield bus, metrics
    finally:
        await bus.close()


async def started(bus: Bus) -> Bus:
    bus.start()
    await asyncio.wait_for(bus.connected.wait(), PATIENCE_SECONDS)
    return bus


async def dead_events(vhost: BrokerVhost, number: int) -> int:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            found = await queues.dead(vhost.admin_url, 100)
            if len(found) >= number:
                return len(found)
            await asyncio.sleep(0.1)


async def test_only_the_accounts_of_its_publishers_are_believed(vhost: BrokerVhost, accounts: Accounts) -> None:
    heard: list[UUID] = []
    arrived = asyncio.Event()

    async def handle(event: CampaignRequested) -> None:
        heard.append(event.campaign_id)
        arrived.set()

    campaigns = {role: uuid4() for role in ("sender_", "dispatcher", "api")}
    async with bus_of(accounts, "dispatcher") as (dispatcher, metrics):
        dispatcher.subscribe(topology.CAMPAIGNS, CampaignRequested, handle, prefetch=1)
        await started(dispatcher)
        for role, campaign in campaigns.items():
            async with bus_of(accounts, role) as (speaker, _):
                assert await (await started(speaker)).publish(CampaignRequested(campaign_id=campaign))
        await asyncio.wait_for(arrived.wait(), PATIENCE_SECONDS)
        assert await dead_events(vhost, 2) == 2
        assert heard == [campaigns["api"]]
        refused = {"event": "campaign.requested", "outcome": "refused"}
        count = metrics.registry.get_sample_value("vashsender_events_consumed_total", refused)
        assert count == 2 * (topology.DELIVERY_LIMIT + 1)

        arrived.clear()
        async with await aio_pika.connect(accounts.url("admin")) as connection:
            channel = await connection.channel()
            exchange = await channel.get_exchange(topology.EXCHANGE, ensure=False)
            body = CampaignRequested(campaign_id=campaigns["sender_"]).model_dump_json().encode()
            await exchange.publish(aio_pika.Message(body, user_id=f"{accounts.prefix}_admin"), "campaign.requested")
        await asyncio.wait_for(arrived.wait(), PATIENCE_SECONDS)
        assert heard[1:] == [campaigns["sender_"]], "what an operator replays is accepted"


@pytest.mark.parametrize("accepts", [True, False])
async def test_events_of_0_1_0_name_no_account(vhost: BrokerVhost, accounts: Accounts, accepts: bool) -> None:
    arrived = asyncio.Event()

    async def handle(_event: CampaignRequested) -> None:
        arrived.set()

    async with bus_of(accounts, "dispatcher", accepts_nameless=accepts) as (dispatcher, _):
        dispatcher.subscribe(topology.CAMPAIGNS, CampaignRequested, handle, prefetch=1)
        await started(dispatcher)
        async with await aio_pika.connect(accounts.url("api")) as connection:
            channel = await connection.channel()
            exchange = await channel.get_exchange(topology.EXCHANGE, ensure=False)
            body = CampaignRequested(campaign_id=uuid4()).model_dump_json().encode()
            await exchange.publish(aio_pika.Message(body), "campaign.requested")
        if accepts:
            await asyncio.wait_for(arrived.wait(), PATIENCE_SECONDS)
        else:
            assert await dead_events(vhost, 1) == 1
            assert not arrived.is_set()


def refused_by(metrics: Metrics) -> float:
    labels = {"event": "sender.heartbeat", "outcome": "refused"}
    return metrics.registry.get_sample_value("vashsender_events_consumed_total", labels) or 0.0


async def test_impossible_heartbeats_go_to_dead_with_account_and_reason(
    vhost: BrokerVhost, accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.reception.KEPT_AT_ONCE", 2)
    monkeypatch.setattr("shared.reception.KEPT_EVERY_SECONDS", 3600.0)
    async with bus_of(accounts, "watchdog") as (watchdog, metrics):
        watchdog.subscribe(topology.HEARTBEATS, SenderHeartbeat, AsyncMock(), prefetch=1)
        await started(watchdog)
        async with await aio_pika.connect(accounts.url("sender")) as connection:
            channel = await connection.channel()
            exchange = await channel.get_exchange(topology.EXCHANGE, ensure=False)
            for slots in (10**6, 2**63, 2**64):
                body = b'{"slots": %d, "padding": "%s"}' % (slots, b"x" * 20_000)
                message = aio_pika.Message(body, user_id=f"{accounts.prefix}_sender")
                await exchange.publish(message, SenderHeartbeat.ROUTING_KEY)
        await until(lambda: refused_by(metrics) == 3)
        assert await dead_events(vhost, 2) == 2, "more than a few are only counted"
    for dead in await queues.dead(vhost.admin_url, 10):
        assert (dead.queue, dead.reason, dead.event) == ("heartbeats", "refused", "sender.heartbeat")
        assert f"published by {accounts.prefix}_sender" in dead.why
        assert len(dead.body) == KEPT_BYTES
        assert dead.died_at is not None
    depths = {depth.name: depth.messages for depth in await queues.depths(vhost.admin_url)}
    assert depths["heartbeats"] == 0, "none is left to be refused again"


async def test_a_watchdog_that_may_keep_nothing_goes_on(vhost: BrokerVhost, accounts: Accounts) -> None:
    """After an update, until the broker has the new definitions."""
    async with bus_of(accounts, "watchdog") as (watchdog, metrics):
        rights = {"exchange": topology.EXCHANGE, "write": "^(batch[.]requeued|campaign[.]requested)$", "read": "^$"}
        path = f"/topic-permissions/{vhost.name}/{accounts.prefix}_watchdog"
        vhost.api.put(path, json=rights).raise_for_status()
        watchdog.subscribe(topology.HEARTBEATS, SenderHeartbeat, AsyncMock(), prefetch=1)
        await started(watchdog)
        async with await aio_pika.connect(accounts.url("sender")) as connection:
            channel = await connection.channel()
            exchange = await channel.get_exchange(topology.EXCHANGE, ensure=False)
            for _ in range(3):
                message = aio_pika.Message(b"{}", user_id=f"{accounts.prefix}_sender")
                await exchange.publish(message, SenderHeartbeat.ROUTING_KEY)
        await until(lambda: refused_by(metrics) == 3)
        # The channel that the broker closed is open again.
        await until(lambda: watchdog.publish(CampaignRequested(campaign_id=uuid4())))
    assert await queues.dead(vhost.admin_url, 10) == []


async def test_the_broker_takes_no_false_name(accounts: Accounts) -> None:
    async with await aio_pika.connect(accounts.url("api")) as connection:
        channel = await connection.channel()
        exchange = await channel.get_exchange(topology.EXCHANGE, ensure=False)
        forged = aio_pika.Message(b"{}", user_id=f"{accounts.prefix}_sender")
        with pytest.raises(ChannelPreconditionFailed):
            await exchange.publish(forged, "sender.heartbeat")

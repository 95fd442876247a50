"""Events of projects on the exchange `vashsender.events`: a real broker, both ledgers, and the consumer of the docs."""

import asyncio
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import aio_pika
import httpx
import orjson
import pytest
from aio_pika.abc import AbstractIncomingMessage
from aiormq.exceptions import ChannelAccessRefused
from sqlalchemy import insert, select, update
from sqlmodel import col

from cli.access_rights import consumer_policy
from cli.local.broker import PrivateBroker
from scripts.asyncapi import ProjectEvent
from services.webhooks import exchange as exchange_module
from services.webhooks import publisher as publishing_module
from services.webhooks.exchange import EventsExchange
from services.webhooks.metrics import WebhookMetrics
from services.webhooks.publisher import TRIES, Publisher
from shared import topology
from shared.ledger import outbox
from shared.ledger.database import Ledger
from shared.ledger.facts import Fact, FactType
from shared.ledger.models import DEFAULT_PROJECT, Project
from shared.ledger.outbox_tables import EventStream
from shared.metrics import Metrics
from tests.integration.test_topology import watermark
from tests.support.broker import BrokerVhost, new_vhost
from tests.support.proxy import Proxy, with_port
from tests.support.waiting import until

pytestmark = pytest.mark.more

EXAMPLE = Path(__file__).parents[2] / "docs/examples/events_consumer.py"
PATIENCE_SECONDS = 60.0
EVERYTHING = "#"


@pytest.fixture
async def vhost(broker_vhost: BrokerVhost) -> BrokerVhost:
    await topology.declare(broker_vhost.admin_url)
    return broker_vhost


class Rig:
    """A ledger whose default project wants events, and publishers of its events."""

    def __init__(self, ledger: Ledger, url: str) -> None:
        self.ledger = ledger
        self.url = url
        self._exchanges: list[EventsExchange] = []

    def exchange(self, url: str = "") -> EventsExchange:
        made = EventsExchange(url or self.url, "test")
        self._exchanges.append(made)
        return made

    def publisher(self, exchange: Any = None) -> Publisher:
        """What one process does."""
        return Publisher(self.ledger, exchange or self.exchange(), WebhookMetrics(Metrics("webhooks"), self.ledger))

    async def tell(self, *numbers: int, project_id: UUID = DEFAULT_PROJECT) -> None:
        facts = [Fact(FactType.RECIPIENT_SENT, details={"number": number}) for number in numbers]
        async with self.ledger.write() as connection:
            await outbox.write(connection, outbox.pack(project_id, facts))
        await outbox.place(self.ledger)

    async def published(self) -> int:
        async with self.ledger.read() as connection:
            return int(await connection.scalar(select(col(EventStream.published_position))) or 0)

    async def end_leases(self) -> None:
        async with self.ledger.write() as connection:
            await connection.execute(update(EventStream).values(publisher_until=0.0))

    async def close(self) -> None:
        for exchange in self._exchanges:
            await exchange.close()


@pytest.fixture
async def rig(ledger: Ledger, vhost: BrokerVhost) -> AsyncIterator[Rig]:
    async with ledger.write() as connection:
        await connection.execute(insert(EventStream).values(project_id=DEFAULT_PROJECT, enabled=True, wanted=True))
    rig = Rig(ledger, vhost.services_url)
    yield rig
    await rig.close()


@asynccontextmanager
async def queue(vhost: BrokerVhost, name: str, key: str = EVERYTHING, **arguments: Any) -> AsyncIterator["Reader"]:
    """A queue of a program outside, bound to the exchange."""
    async with await aio_pika.connect(vhost.admin_url) as connection:
        channel = await connection.channel()
        declared = await channel.declare_queue(name, durable=True, arguments=arguments)
        await declared.bind(topology.EVENTS_EXCHANGE, key)
        yield Reader(declared)


class Reader:
    def __init__(self, declared: aio_pika.abc.AbstractQueue) -> None:
        self.queue = declared

    async def messages(self, enough: Callable[[list[AbstractIncomingMessage]], bool]) -> list[AbstractIncomingMessage]:
        """Takes messages until this is true of them."""
        taken: list[AbstractIncomingMessage] = []
        async with asyncio.timeout(PATIENCE_SECONDS), self.queue.iterator() as messages:  # the rest stays on the queue
            async for message in messages:
                await message.ack()
                taken.append(message)
                if enough(taken):
                    break
        return taken

    async def numbers(self, count: int) -> list[int]:
        return [number_of(message) for message in await self.messages(lambda taken: len(taken) >= count)]

    async def is_empty(self) -> bool:
        return await self.queue.get(no_ack=True, fail=False) is None


def number_of(message: AbstractIncomingMessage) -> int:
    return int(orjson.loads(message.body)["data"]["number"])


async def test_events_arrive_in_order_with_the_ids_of_the_api(
    rig: Rig, vhost: BrokerVhost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing_module, "AGAIN_SECONDS", 3600.0)  # for what a queue refuses alone
    await rig.tell(*range(1200))
    async with queue(vhost, "events.all") as reader:
        await asyncio.wait_for(rig.publisher().tick(), PATIENCE_SECONDS)
        messages = await reader.messages(lambda taken: len(taken) == 1200)
        assert await reader.is_empty()
    assert [number_of(message) for message in messages] == list(range(1200))
    first, body = messages[0], orjson.loads(messages[0].body)
    ProjectEvent.model_validate(body)
    assert set(body) == set(ProjectEvent.model_fields), "as docs/asyncapi.json describes it"
    assert body["id"] == first.message_id == f"{DEFAULT_PROJECT}-1"
    assert first.routing_key == f"{DEFAULT_PROJECT}.recipient.sent"
    assert (first.type, first.content_type, first.delivery_mode) == ("recipient.sent", "application/json", 2)
    assert first.user_id == "services"
    assert await rig.published() == 1200


async def test_a_program_of_one_project_gets_its_events_and_no_others(rig: Rig, vhost: BrokerVhost) -> None:
    other = uuid4()
    async with rig.ledger.write() as connection:
        await connection.execute(insert(Project).values(id=other, name="other", created_at=0.0))
        await connection.execute(insert(EventStream).values(project_id=other, enabled=True, wanted=True))
    name = f"consumer-{uuid4().hex[:8]}"
    vhost.api.put(f"/users/{name}", json={"password": "secret", "tags": ""}).raise_for_status()
    own = f"^events[.]{name}$"
    rights = {"configure": own, "write": own, "read": f"^(events[.]{name}|vashsender[.]events)$"}
    vhost.api.put(f"/permissions/{vhost.name}/{name}", json=rights).raise_for_status()
    topics = {"exchange": topology.EVENTS_EXCHANGE, "write": "^$", "read": f"^{other}[.]"}
    vhost.api.put(f"/topic-permissions/{vhost.name}/{name}", json=topics).raise_for_status()
    try:
        url = vhost.services_url.replace("//services:", f"//{name}:")
        password = url.partition(f"//{name}:")[2].partition("@")[0]
        async with await aio_pika.connect(url.replace(password, "secret")) as connection:
            mine = await (await connection.channel()).declare_queue(f"events.{name}", durable=True)
            for key in (EVERYTHING, f"{DEFAULT_PROJECT}.*.*", "*.recipient.sent"):
                refused = await (await connection.channel()).get_queue(f"events.{name}", ensure=False)
                with pytest.raises(ChannelAccessRefused):
                    await refused.bind(topology.EVENTS_EXCHANGE, key)
            await mine.bind(topology.EVENTS_EXCHANGE, f"{other}.#")
            await rig.tell(1)
            await rig.tell(2, project_id=other)
            await rig.publisher().tick()
            assert await Reader(mine).numbers(1) == [2]
            assert await Reader(mine).is_empty()
    finally:
        vhost.api.delete(f"/users/{name}").raise_for_status()


class KilledError(Exception):
    pass


async def test_a_process_that_dies_before_it_has_noted_what_it_published_loses_nothing(
    rig: Rig, vhost: BrokerVhost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing_module, "BATCH_EVENTS", 500)

    class Dying:
        def __init__(self, exchange: EventsExchange) -> None:
            self._exchange = exchange

        async def publish(self, project_id: UUID, events: Sequence[Mapping[str, Any]]) -> Collection[int]:
            await self._exchange.publish(project_id, events)
            raise KilledError

        async def close(self) -> None: ...

    await rig.tell(*range(700))
    async with queue(vhost, "events.all") as reader:
        with pytest.raises(KilledError):
            await rig.publisher(Dying(rig.exchange())).tick()
        await rig.publisher().tick()
        assert await rig.published() == 0, "the lease of the dead process protects its claim"
        await rig.end_leases()
        await rig.publisher().tick()
        messages = await reader.messages(lambda taken: len(taken) == 1200)
    numbers = [number_of(message) for message in messages]
    assert numbers == [*range(500), *range(700)], "the batch it had published comes again, then the others"
    assert messages[0].message_id == messages[500].message_id


async def test_while_the_broker_is_away_nothing_is_lost_and_it_goes_on_by_itself(
    rig: Rig, vhost: BrokerVhost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing_module, "AGAIN_SECONDS", 0.0)
    proxy = Proxy(vhost.broker.amqp_port)
    proxy.start()
    port = proxy.port
    exchange = rig.exchange(with_port(vhost.services_url, port))
    metrics = Metrics("webhooks")
    publisher = Publisher(rig.ledger, exchange, WebhookMetrics(metrics, rig.ledger))
    await rig.tell(*range(10))
    async with queue(vhost, "events.all") as reader:
        await publisher.tick()
        proxy.stop()
        await rig.tell(*range(10, 20))
        while (value := metrics.registry.get_sample_value("vashsender_exchange_failing_seconds")) == 0:
            await asyncio.wait_for(publisher.tick(), PATIENCE_SECONDS)
        assert value is not None
        assert value > 0
        assert await rig.published() == 10
        again = Proxy(vhost.broker.amqp_port, port=port)
        again.start()
        try:
            await asyncio.wait_for(until_published(rig, publisher, 20), PATIENCE_SECONDS)
        finally:
            await exchange.close()
            again.stop()
        assert await reader.numbers(20) == list(range(20))
    assert metrics.registry.get_sample_value("vashsender_exchange_failing_seconds") == 0


async def until_published(rig: Rig, publisher: Publisher, position: int) -> None:
    while await rig.published() < position:
        await publisher.tick()


async def test_a_missing_exchange_loses_nothing(rig: Rig, vhost: BrokerVhost, monkeypatch: pytest.MonkeyPatch) -> None:
    """As during an update, before the topology is declared."""
    vhost.api.delete(f"/exchanges/{vhost.name}/{topology.EVENTS_EXCHANGE}").raise_for_status()
    assert await topology.check(vhost.services_url) == [topology.EVENTS_EXCHANGE]
    monkeypatch.setattr(publishing_module, "AGAIN_SECONDS", 0.01)
    publisher = rig.publisher()
    await rig.tell(1, 2)
    await publisher.tick()
    assert await rig.published() == 0
    await topology.declare(vhost.admin_url)
    async with queue(vhost, "events.all") as reader:
        await asyncio.wait_for(until_published(rig, publisher, 2), PATIENCE_SECONDS)
        assert await reader.numbers(2) == [1, 2]


async def test_a_full_queue_that_nothing_reads_drops_its_oldest_and_harms_no_other(
    rig: Rig, vhost: BrokerVhost
) -> None:
    limited = {**consumer_policy(), "vhost": vhost.name}
    definition = {**dict(limited["definition"]), "max-length": 10}  # type: ignore[call-overload]
    policy = f"/policies/{vhost.name}/{limited['name']}"
    keys = ("pattern", "apply-to", "priority")
    vhost.api.put(policy, json={key: limited[key] for key in keys} | {"definition": definition}).raise_for_status()
    async with queue(vhost, "events.unread") as unread, queue(vhost, "read") as reader:
        await until(lambda: vhost.queue("events.unread").get("policy") == limited["name"])
        await rig.tell(*range(100))
        await rig.publisher().tick()
        assert await reader.numbers(100) == list(range(100))
        assert await unread.numbers(10) == list(range(90, 100)), "it is limited by its name alone"
        assert await unread.is_empty()
    assert dropped(vhost.broker) >= 90, "the alert counts them"


def dropped(broker: PrivateBroker) -> float:
    """Messages that the broker has dropped from queues that were full, as its metrics count them."""
    said = httpx.get(f"http://127.0.0.1:{broker.prometheus_port}/metrics", trust_env=False, timeout=30).text
    found = [line for line in said.splitlines() if line.startswith("rabbitmq_global_messages_dead_lettered_maxlen")]
    return sum(float(line.rpartition(" ")[2]) for line in found)


async def test_a_queue_that_refuses_instead_of_dropping_delays_others_by_a_moment(
    rig: Rig, vhost: BrokerVhost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing_module, "AGAIN_SECONDS", 0.01)
    full: dict[str, Any] = {"x-max-length": 5, "x-overflow": "reject-publish"}
    metrics = Metrics("webhooks")
    publisher = Publisher(rig.ledger, rig.exchange(), WebhookMetrics(metrics, rig.ledger))
    async with queue(vhost, "events.stubborn", **full), queue(vhost, "read") as reader:
        await rig.tell(*range(100))
        await publisher.tick()
        await rig.tell(*range(100, 200))
        await publisher.tick()
        ends = await reader.messages(lambda taken: any(number_of(message) == 199 for message in taken))
    numbers = [number_of(message) for message in ends]
    assert list(dict.fromkeys(numbers)) == list(range(200)), "all of them, and in order when they come first"
    assert len(numbers) <= 100 * TRIES + 100, "those that were refused come again, but the next batch only once"
    assert await rig.published() == 200
    refused = metrics.registry.get_sample_value("vashsender_exchange_events_total", {"outcome": "refused"})
    assert refused is not None
    assert 190 <= refused <= 200


async def test_what_is_not_confirmed_in_time_counts_as_refused_and_the_next_batch_is_not_mixed_up_with_it(
    rig: Rig, vhost: BrokerVhost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a quorum queue that has lost the majority of its servers: the broker has the events, and says nothing."""
    proxy = Proxy(vhost.broker.amqp_port)
    proxy.start()
    exchange = rig.exchange(with_port(vhost.services_url, proxy.port))
    try:
        async with queue(vhost, "events.all") as reader:
            assert await exchange.publish(DEFAULT_PROJECT, [event(1)]) == set()
            proxy.cut(requests=False)
            monkeypatch.setattr(exchange_module, "CONFIRM_SECONDS", 0.2)
            assert await exchange.publish(DEFAULT_PROJECT, [event(2), event(3)]) == {2, 3}
            proxy.restore()
            monkeypatch.setattr(exchange_module, "CONFIRM_SECONDS", PATIENCE_SECONDS)
            assert await exchange.publish(DEFAULT_PROJECT, [event(4)]) == set()
            assert await reader.numbers(4) == [1, 2, 3, 4]
    finally:
        await exchange.close()
        proxy.stop()


async def test_what_a_queue_refuses_is_tried_on_a_new_connection(rig: Rig, vhost: BrokerVhost) -> None:
    """A channel may refuse what another one takes: see `EventsExchange`."""
    exchange = rig.exchange()
    full: dict[str, Any] = {"x-max-length": 1, "x-overflow": "reject-publish"}
    async with queue(vhost, "events.stubborn", **full):
        while not await exchange.publish(DEFAULT_PROJECT, [event(1)]):
            before = exchange._connection
        assert before is not None
        await exchange.publish(DEFAULT_PROJECT, [event(1)])
        assert exchange._connection is not before
    await exchange.close()


def event(position: int) -> dict[str, Any]:
    identity = f"{DEFAULT_PROJECT}-{position}"
    return {"id": identity, "type": "recipient.sent", "position": position, "data": {"number": position}}


async def test_two_processes_publish_each_event_once(rig: Rig, vhost: BrokerVhost) -> None:
    one, two = rig.publisher(), rig.publisher()
    async with queue(vhost, "events.all") as reader:
        for start in range(0, 1800, 600):
            await rig.tell(*range(start, start + 600))
            await asyncio.gather(one.tick(), two.tick())
        await asyncio.gather(one.drain(), two.drain())
        await rig.tell(1800)
        await rig.publisher().tick()
        assert await rig.published() == 1801, "an ended process gives its claim back"
        assert await reader.numbers(1801) == list(range(1801))
        assert await reader.is_empty()


async def test_events_past_their_retention_are_counted(rig: Rig, vhost: BrokerVhost) -> None:
    """But not those from before publishing was switched on: no program had expected them, and no alert may fire."""
    metrics = Metrics("webhooks")
    publisher = Publisher(rig.ledger, rig.exchange(), WebhookMetrics(metrics, rig.ledger))
    async with queue(vhost, "events.all") as reader:
        for first in (1, 4):
            await rig.tell(first, first + 1)
            await outbox.forget(rig.ledger, -1.0, 10)
            await rig.tell(first + 2)
            await publisher.tick()
            assert await reader.numbers(1) == [first + 2]
            assert await rig.published() == first + 2
            forgotten = metrics.registry.get_sample_value("vashsender_exchange_events_total", {"outcome": "forgotten"})
            assert forgotten == (0 if first == 1 else 2)


async def test_during_an_alarm_events_wait_and_come_once(
    sqlite_url: str, own_broker: PrivateBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The alarm lasts longer than a confirmation may take, and than the claim does without renewal."""
    ledger = Ledger(sqlite_url, pool_size=3)
    with new_vhost(own_broker) as vhost:
        await topology.declare(vhost.admin_url)
        async with ledger.write() as connection:
            await connection.execute(insert(EventStream).values(project_id=DEFAULT_PROJECT, enabled=True, wanted=True))
        rig = Rig(ledger, vhost.services_url)
        exchange = rig.exchange()
        publisher = rig.publisher(exchange)
        is_blocked, answers = exchange._is_blocked, list[bool]()

        async def asked() -> bool:
            monkeypatch.setattr(exchange_module, "CONFIRM_SECONDS", PATIENCE_SECONDS)
            answers.append(await is_blocked())
            return answers[-1]

        async with queue(vhost, "events.all") as reader:
            await rig.tell(0)
            await publisher.tick()
            await watermark(own_broker, "0.0000001")
            await rig.tell(1, 2)
            monkeypatch.setattr(exchange, "_is_blocked", asked)
            monkeypatch.setattr(exchange_module, "CONFIRM_SECONDS", 5.0)
            ticking = asyncio.ensure_future(publisher.tick())
            await until(lambda: answers, PATIENCE_SECONDS)
            assert answers == [True]
            await rig.end_leases()
            await publisher.renew()
            await asyncio.wait_for(rig.publisher().tick(), PATIENCE_SECONDS)
            await watermark(own_broker, "absolute", "512MB")
            await asyncio.wait_for(ticking, PATIENCE_SECONDS)
            assert await reader.numbers(3) == [0, 1, 2]
            assert await reader.is_empty()
        await rig.close()
    await ledger.close()


async def test_the_local_broker_limits_the_queues_of_programs(broker: PrivateBroker) -> None:
    with new_vhost(broker) as vhost:
        found = vhost.api.get("/policies/vashsender/vashsender-events").raise_for_status().json()
    wanted = consumer_policy()
    assert {key: found[key] for key in wanted} == wanted


class Consumer:
    """The example of the docs, as a process."""

    def __init__(self, folder: Path, url: str) -> None:
        self._store = folder / "events.db"
        self._log = folder / "consumer.log"
        self._environment = {**os.environ, "AMQP_URL": url, "QUEUE": "events.example", "EVENTS_DB": str(self._store)}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(EXAMPLE)], env=self._environment, stdout=log, stderr=log
            )

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def positions(self) -> list[int]:
        if not self._store.exists():
            return []
        with sqlite3.connect(self._store) as store:
            try:
                return [row[0] for row in store.execute("SELECT position FROM event ORDER BY rowid")]
            except sqlite3.OperationalError:  # it is just being made
                return []

    async def wait_for(self, number: int) -> None:
        await until(lambda: self._has_ended() or len(self.positions()) >= number, PATIENCE_SECONDS)
        assert not self._has_ended(), self._log.read_text()

    def _has_ended(self) -> bool:
        return self._process is None or self._process.poll() is not None


@pytest.fixture
def consumer(tmp_path: Path, vhost: BrokerVhost) -> Iterator[Consumer]:
    consumer = Consumer(tmp_path, vhost.admin_url)
    yield consumer
    consumer.kill()


async def test_the_consumer_of_the_docs_stores_each_event_once_although_it_is_killed(
    rig: Rig, vhost: BrokerVhost, consumer: Consumer
) -> None:
    assert len([line for line in EXAMPLE.read_text().splitlines() if line and not line.startswith('"""')]) <= 22
    publisher = rig.publisher()
    consumer.start()
    bindings = f"/bindings/{vhost.name}/e/{topology.EVENTS_EXCHANGE}/q/events.example"
    await until(lambda: (found := vhost.api.get(bindings)).is_success and found.json(), PATIENCE_SECONDS)
    await rig.tell(*range(300))
    await publisher.tick()
    await consumer.wait_for(1)
    consumer.kill()
    await rig.tell(*range(300, 400))
    await publisher.tick()
    consumer.start()
    await consumer.wait_for(400)
    assert sorted(consumer.positions()) == list(range(1, 401))

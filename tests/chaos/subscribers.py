"""Programs that are told what happens: two webhooks and a queue on the exchange, and an account of what they got."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import aio_pika
import orjson
from standardwebhooks import Webhook

from services.webhooks.delivery import BATCH_EVENTS
from shared import topology
from tests.support.broker import BrokerVhost
from tests.support.http_receiver import receiver
from tests.support.system import System
from tests.support.waiting import until

ANSWERS_PER_LOST_ONE = 17
PATIENCE_SECONDS = 120.0
QUEUE = "events.chaos"
SETTINGS = {"webhook_networks": "127.0.0.1/32", "webhook_post_seconds": "5", "publish_events": "true"}


@dataclass
class Endpoint:
    """One webhook. It verifies each POST; every so often it takes the events, and its answer is lost."""

    secret: str = ""
    posts: int = 0
    #: As they arrived, repeated ones too.
    got: list[Mapping[str, Any]] = field(default_factory=list)

    def take(self, headers: Mapping[str, str], body: bytes) -> int | None:
        """Returns the status of the answer; None: none."""
        Webhook(self.secret).verify(body, dict(headers))
        self.got += orjson.loads(body)["data"]
        self.posts += 1
        return 204 if self.posts % ANSWERS_PER_LOST_ONE else None

    def has(self, position: int) -> bool:
        return any(event["position"] == position for event in self.got[-BATCH_EVENTS:])


@dataclass
class Subscribers:
    system: System
    vhost: BrokerVhost
    #: By path.
    endpoints: Mapping[str, Endpoint]

    async def account(self, copies: Mapping[str, int]) -> list[str]:
        """What is wrong, if anything: something lost, out of order, or counted twice by a receiver that keeps ids.

        `copies`: how often the relay accepted an email to each recipient."""
        last = await self._last_position()
        problems = []
        for name, endpoint in self.endpoints.items():
            try:
                await until(partial(endpoint.has, last), PATIENCE_SECONDS)
            except TimeoutError:
                problems.append(f"webhook {name}: nothing new before event {last} within {PATIENCE_SECONDS:g} s")
            problems += [f"webhook {name}: {wrong}" for wrong in _wrong(endpoint.got, last, copies)]
        return problems + [f"queue: {wrong}" for wrong in _wrong(await self._read_queue(last), last, copies)]

    async def _last_position(self) -> int:
        """That of the campaign's end, which is written after everything else."""
        wanted = {"types": "campaign.finished"}
        async with (
            asyncio.timeout(PATIENCE_SECONDS),
            self.system.client() as client,
            client.stream("GET", "/events/stream", params=wanted) as events,
        ):
            async for line in events.raise_for_status().aiter_lines():
                if line.startswith("id:"):
                    return int(line.removeprefix("id:"))
        raise AssertionError("the stream of events ended before the campaign")

    async def _read_queue(self, last: int) -> list[Mapping[str, Any]]:
        """Everything on the queue, as soon as the last event is there."""
        got: list[Mapping[str, Any]] = []
        async with await aio_pika.connect(self.vhost.admin_url) as connection:
            queue = await (await connection.channel()).get_queue(QUEUE, ensure=False)
            with suppress(TimeoutError):  # what is missing is said afterwards
                async with asyncio.timeout(PATIENCE_SECONDS), queue.iterator() as messages:
                    async for message in messages:
                        await message.ack()
                        got.append(orjson.loads(message.body))
                        if got[-1]["position"] >= last:
                            break
        return got


def _wrong(got: list[Mapping[str, Any]], last: int, copies: Mapping[str, int]) -> list[str]:
    problems = []
    newest = 0
    for event in got:
        if event["position"] > newest + 1:
            problems.append(f"event {event['position']} came after {newest}")
        newest = max(newest, event["position"])
    once = {event["id"]: event for event in got}
    if len(once) != last:
        problems.append(f"{len(once)} different events of {last}")
    told = Counter(event["data"]["email"] for event in once.values() if event["type"] == "recipient.sent")
    if told.keys() != copies.keys():
        problems.append(f"{len(told.keys() ^ copies.keys())} recipients are told but not sent, or sent but not told")
    if twice := sum(number > 1 for number in told.values()):
        problems.append(f"{twice} recipients are counted twice")
    return problems[:5]


@asynccontextmanager
async def listening(system: System, vhost: BrokerVhost) -> AsyncIterator[Subscribers]:
    """Starts to listen, before there is a campaign. The services run."""
    endpoints = {"/one": Endpoint(), "/two": Endpoint()}
    async with receiver(lambda path, headers, body: endpoints[path].take(headers, body)) as url:
        system.service_settings["webhooks"] = SETTINGS
        await system.launch("webhooks").wait_ready()
        async with await aio_pika.connect(vhost.admin_url) as connection:
            queue = await (await connection.channel()).declare_queue(QUEUE, durable=True)
            await queue.bind(topology.EVENTS_EXCHANGE, "#")
        for path, endpoint in endpoints.items():
            made = await system.post("/webhooks", {"url": url + path})
            endpoint.secret = made["secret"]
        yield Subscribers(system, vhost, endpoints)

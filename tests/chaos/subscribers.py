"""Programs that are told what happens: two webhooks and a queue on the exchange, and an account of what they got."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aio_pika
import orjson
from standardwebhooks import Webhook

from shared import topology
from tests.support.broker import BrokerVhost
from tests.support.system import System

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

    def take(self, headers: Mapping[str, str], body: bytes) -> bool:
        """Returns whether it answers."""
        Webhook(self.secret).verify(body, dict(headers))
        self.got += orjson.loads(body)["data"]
        self.posts += 1
        return self.posts % ANSWERS_PER_LOST_ONE != 0


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
                async with asyncio.timeout(PATIENCE_SECONDS):
                    while not any(event["position"] == last for event in endpoint.got[-500:]):  # noqa: ASYNC110
                        await asyncio.sleep(0.1)
            except TimeoutError:
                problems.append(f"webhook {name}: nothing new before event {last} within {PATIENCE_SECONDS:g} s")
            problems += [f"webhook {name}: {wrong}" for wrong in _wrong(endpoint.got, last, copies)]
        return problems + [f"queue: {wrong}" for wrong in _wrong(await self._read_queue(last), last, copies)]

    async def _last_position(self) -> int:
        """That of the campaign's end, which is written after everything else."""
        after = "0"
        async with self.system.client() as client, asyncio.timeout(PATIENCE_SECONDS):
            while True:
                wanted = {"types": "campaign.finished", "after": after}
                page = (await client.get("/events", params=wanted)).raise_for_status().json()
                if page["data"]:
                    position: int = page["data"][-1]["position"]
                    return position
                if page["next_cursor"] == after:
                    await asyncio.sleep(0.1)
                after = page["next_cursor"]

    async def _read_queue(self, last: int) -> list[Mapping[str, Any]]:
        """Everything on the queue, as soon as the last event is there."""
        got: list[Mapping[str, Any]] = []
        async with await aio_pika.connect(self.vhost.admin_url) as connection:
            queue = await (await connection.channel()).get_queue(QUEUE, ensure=False)
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    while not got or got[-1]["position"] < last:
                        message = await queue.get(no_ack=True, fail=False)
                        if message is not None:
                            got.append(orjson.loads(message.body))
                        else:
                            await asyncio.sleep(0.1)
            except TimeoutError:
                pass  # what is missing is said below
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

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                fields = (line.split(": ", 1) for line in head.splitlines()[1:] if line)
                headers = {name.lower(): value for name, value in fields}
                body = await reader.readexactly(int(headers["content-length"]))
                if not endpoints[head.split()[1]].take(headers, body):
                    return
                writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the service was killed
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        system.service_settings["webhooks"] = SETTINGS
        await system.launch("webhooks").wait_ready()
        async with await aio_pika.connect(vhost.admin_url) as connection:
            queue = await (await connection.channel()).declare_queue(QUEUE, durable=True)
            await queue.bind(topology.EVENTS_EXCHANGE, "#")
        for path, endpoint in endpoints.items():
            made = await system.post("/webhooks", {"url": f"http://127.0.0.1:{port}{path}"})
            endpoint.secret = made["secret"]
        yield Subscribers(system, vhost, endpoints)
    finally:
        server.close()

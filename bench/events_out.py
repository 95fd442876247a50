"""Events a second out of the outbox: by webhook to a receiver on this machine, to the exchange, and by reading.

`python -m bench.events_out [--events 50000]`, on SQLite. The receiver is another process, which takes every POST. The
broker is a private one; a durable queue takes what is published. Prints whether 10,000 a second were reached, and
writes JSON to var/bench/events_out.json.
"""

import argparse
import asyncio
import multiprocessing
import tempfile
import time
from pathlib import Path
from uuid import UUID, uuid4

import aio_pika
import uvloop

from bench.campaign import private_broker
from bench.reports import write_report
from cli.local.broker import PrivateBroker
from cli.local.broker_files import ADMIN, SERVICES
from services.webhooks.addresses import parse_networks
from services.webhooks.delivery import Delivery
from services.webhooks.exchange import EventsExchange
from services.webhooks.http import Client, trusted
from services.webhooks.metrics import WebhookMetrics
from services.webhooks.publisher import Publisher
from shared import topology
from shared.ledger import event_feed, migrate, outbox, webhooks
from shared.ledger.database import Ledger
from shared.ledger.facts import Fact, FactType
from shared.ledger.models import DEFAULT_PROJECT
from shared.metrics import Metrics

FACTS_AT_ONCE = 64
GIVE_UP_SECONDS = 3600.0
POST_SECONDS = 30.0
READ_AT_ONCE = 1000
LEAST = 10_000


def receive(ports: "multiprocessing.Queue[int]") -> None:
    """A server that answers 204 to everything."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
                writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        except asyncio.IncompleteReadError:
            writer.close()

    async def run() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        ports.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(run())


async def measure(database: Path, port: int, broker: PrivateBroker, number: int) -> dict[str, float]:
    """Fills the outbox, then takes everything out again in each way. Returns events a second, by way."""
    ledger = Ledger(f"sqlite+aiosqlite:///{database}")
    client = Client(parse_networks("127.0.0.1/32"), trusted(None), POST_SECONDS)
    try:
        async with ledger.write() as connection:
            url = f"http://127.0.0.1:{port}/"
            endpoint_id, _ = await webhooks.create(connection, DEFAULT_PROJECT, url, ())
            for first in range(0, number, FACTS_AT_ONCE):
                facts = [a_fact(endpoint_id, one) for one in range(first, first + FACTS_AT_ONCE)]
                await outbox.write(connection, outbox.pack(DEFAULT_PROJECT, facts))
        began = time.monotonic()
        total = await outbox.place(ledger)
        rates = {"placed": show("placed", total, began, 0.0)}
        began, cpu = time.monotonic(), time.process_time()
        metrics = WebhookMetrics(Metrics("webhooks"), ledger)
        await Delivery(ledger, client, metrics, uuid4().hex, GIVE_UP_SECONDS).run(endpoint_id)
        rates["webhook"] = show("delivered by webhook", total, began, time.process_time() - cpu)
        exchange = EventsExchange(broker.amqp_url(SERVICES), "bench")
        publisher = Publisher(ledger, exchange, metrics)
        async with await aio_pika.connect(broker.amqp_url(ADMIN)) as connection:
            queue = await (await connection.channel()).declare_queue("events.bench", durable=True)
            await queue.bind(topology.EVENTS_EXCHANGE, "#")
        began, cpu = time.monotonic(), time.process_time()
        await publisher.tick()
        rates["exchange"] = show("published to the exchange", total, began, time.process_time() - cpu)
        await publisher.drain()
        began, cpu, after = time.monotonic(), time.process_time(), 0
        while after < total:
            async with ledger.read() as connection:
                after = (await event_feed.read(connection, DEFAULT_PROJECT, after, READ_AT_ONCE)).until
        rates["read"] = show("read", total, began, time.process_time() - cpu)
        return rates
    finally:
        await client.close()
        await ledger.close()


def a_fact(campaign_id: UUID, recipient_id: int) -> Fact:
    """As Postfix answers."""
    queue_id = f"4bXyZ{recipient_id:06}"
    details = {"attempts": 1, "code": 250, "enhanced_code": "2.0.0", "relay": "relay:25", "queue_id": queue_id}
    details["reply"] = f"2.0.0 Ok: queued as {queue_id}"
    return Fact(FactType.RECIPIENT_SENT, campaign_id, recipient_id, details)


def show(what: str, events: int, began: float, cpu: float) -> float:
    seconds = time.monotonic() - began
    spent = f", {1e6 * cpu / events:.0f} us of CPU each" if cpu else ""
    print(f"{what}: {events} events in {seconds:.2f} s, {events / seconds:,.0f} a second{spent}")
    return events / seconds


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.events_out", description=__doc__)
    parser.add_argument("--events", type=int, default=50_000)
    number = parser.parse_args().events
    ports: multiprocessing.Queue[int] = multiprocessing.Queue()
    receiver = multiprocessing.Process(target=receive, args=(ports,), daemon=True)
    receiver.start()
    with tempfile.TemporaryDirectory() as folder, private_broker() as broker:
        database = Path(folder) / "ledger.db"
        migrate.upgrade(f"sqlite+aiosqlite:///{database}")
        asyncio.run(topology.declare(broker.amqp_url(ADMIN)))
        rates = uvloop.run(measure(database, ports.get(), broker, number))
    receiver.terminate()
    for way in ("webhook", "exchange"):
        print(f"at least {LEAST:,} a second by {way}: {'yes' if rates[way] >= LEAST else 'NO'}")
    write_report("events_out", **rates)


if __name__ == "__main__":
    main()

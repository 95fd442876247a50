"""Events a second out of the outbox, by webhook to a receiver on this machine, and by reading. On SQLite alone.

`python -m bench.events_out [--events 50000]`. The receiver is another process, which takes every POST.
"""

import argparse
import asyncio
import multiprocessing
import tempfile
import time
from pathlib import Path
from uuid import uuid4

from services.webhooks.addresses import parse_networks
from services.webhooks.delivery import Delivery
from services.webhooks.http import Client, trusted
from services.webhooks.metrics import WebhookMetrics
from shared.ledger import event_feed, migrate, outbox, webhooks
from shared.ledger.database import Ledger
from shared.ledger.facts import Fact, FactType
from shared.ledger.models import DEFAULT_PROJECT
from shared.metrics import Metrics

FACTS_AT_ONCE = 64
GIVE_UP_SECONDS = 3600.0
POST_SECONDS = 30.0
READ_AT_ONCE = 1000


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

    asyncio.run(run())


async def measure(database: Path, port: int, number: int) -> None:
    """Fills the outbox, then takes everything out again, twice."""
    ledger = Ledger(f"sqlite+aiosqlite:///{database}")
    client = Client(parse_networks("127.0.0.1/32"), trusted(None), POST_SECONDS)
    try:
        async with ledger.write() as connection:
            url = f"http://127.0.0.1:{port}/"
            endpoint_id, _ = await webhooks.create(connection, DEFAULT_PROJECT, url, ())
            details = {"attempts": 1, "code": 250, "reply": "2.0.0 Ok: queued", "relay": "r:25", "queue_id": "4bXyZ"}
            facts = [Fact(FactType.RECIPIENT_SENT, endpoint_id, one, details) for one in range(FACTS_AT_ONCE)]
            for _ in range(number // FACTS_AT_ONCE):
                await outbox.write(connection, outbox.pack(DEFAULT_PROJECT, facts))
        began = time.monotonic()
        total = 0
        while placed := await outbox.place(ledger):
            total += placed
        show("placed", total, began, 0.0)
        began, cpu = time.monotonic(), time.process_time()
        metrics = WebhookMetrics(Metrics("webhooks"), ledger)
        await Delivery(ledger, client, metrics, uuid4().hex, GIVE_UP_SECONDS).run(endpoint_id)
        show("delivered by webhook", total, began, time.process_time() - cpu)
        began, cpu, after = time.monotonic(), time.process_time(), 0
        while after < total:
            async with ledger.read() as connection:
                after = (await event_feed.read(connection, DEFAULT_PROJECT, after, READ_AT_ONCE)).until
        show("read", total, began, time.process_time() - cpu)
    finally:
        await client.close()
        await ledger.close()


def show(what: str, events: int, began: float, cpu: float) -> None:
    seconds = time.monotonic() - began
    spent = f", {1e6 * cpu / events:.0f} us of CPU each" if cpu else ""
    print(f"{what}: {events} events in {seconds:.2f} s, {events / seconds:,.0f} a second{spent}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.events_out", description=__doc__)
    parser.add_argument("--events", type=int, default=50_000)
    number = parser.parse_args().events
    ports: multiprocessing.Queue[int] = multiprocessing.Queue()
    receiver = multiprocessing.Process(target=receive, args=(ports,), daemon=True)
    receiver.start()
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "ledger.db"
        migrate.upgrade(f"sqlite+aiosqlite:///{database}")
        asyncio.run(measure(database, ports.get(), number))
    receiver.terminate()


if __name__ == "__main__":
    main()

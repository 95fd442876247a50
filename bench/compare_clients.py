"""Contestants of `bench.compare` that write rows. Each runs alone in a process and measures itself.

- `floor`: a bare pipelined client that writes prepared bytes, ignores what replies say, and records rows in groups of
  64 with one statement. No sender with a row per recipient that records groups of this size can cost much less.
- `tasks`: the shape of a Celery system in its fairest form: one persistent message per email on RabbitMQ, `smtplib` on
  connections that stay open, one row each, acknowledged after the row. It renders with our own templates, and has
  nothing of Celery's or an ORM's own cost.
"""

import argparse
import asyncio
import json
import queue
import smtplib
import time
from collections.abc import Awaitable, Callable
from typing import cast

import aio_pika
import asyncpg
import uvloop

from bench.smtp_clients import RECIPIENT, SENDER, prerendered, rendered

GROUP = 64
PUBLISHED_AT_ONCE = 100
PREPARE = (
    "CREATE TABLE IF NOT EXISTS email (id bigint PRIMARY KEY, address text NOT NULL, status text NOT NULL,"
    " attempts int NOT NULL, smtp_code int, reply text, sent_at timestamptz)"
)
FILL = (
    "INSERT INTO email SELECT i, 'person-' || i || '@example.test', 'pending', 0 FROM generate_series($1::bigint, $2) i"
)
RECORD = (
    "UPDATE email SET status = 'sent', attempts = attempts + 1, smtp_code = 250, reply = $2, sent_at = now()"
    " WHERE id = ANY($1::bigint[]) AND status = 'pending'"
)
REPLY = "2.0.0 Ok: queued as 4bXk2d0zWcz1"


async def prepare(database: str) -> None:
    """Makes the table."""
    connection = await asyncpg.connect(database)
    await connection.execute(PREPARE)
    await connection.close()


class Options(argparse.Namespace):
    """`first`: the first of the `emails` row ids that belong to this process."""

    contestant: str
    port: int
    database: str
    amqp: str
    first: int
    emails: int
    connections: int
    kilobytes: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("contestant", choices=sorted(CONTESTANTS))
    for name in ("port", "first", "emails", "connections", "kilobytes"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("database", "amqp"):
        parser.add_argument(f"--{name}", required=True)
    options = parser.parse_args(namespace=Options())
    seconds, cpu = uvloop.run(measure(CONTESTANTS[options.contestant], options))
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu}))


async def measure(run: "Contestant", options: Options) -> tuple[float, float]:
    """Wall and CPU seconds. The rows are there before, as after an import."""
    last = options.first + options.emails - 1
    async with asyncpg.create_pool(options.database, min_size=1, max_size=options.connections) as pool:
        await pool.execute(FILL, options.first, last)
        began, cpu = time.perf_counter(), time.process_time()
        await run(pool, options)
        took = time.perf_counter() - began, time.process_time() - cpu
        unsent = await pool.fetchval(
            "SELECT count(*) FROM email WHERE id BETWEEN $1 AND $2 AND status <> 'sent'", options.first, last
        )
    if unsent:
        raise RuntimeError(f"{unsent} emails are not recorded")
    return took


class Pipe(asyncio.Protocol):
    """One connection: writes a body and the next envelope for each 354, and reports each email that is accepted."""

    def __init__(self, ids: list[int], body: bytes, accepted: Callable[[int], None]) -> None:
        self._ids, self._body, self._accepted = ids, body + b".\r\n", accepted
        self._envelope = f"MAIL FROM:<{SENDER}>\r\nRCPT TO:<{RECIPIENT}>\r\nDATA\r\n".encode()
        self._greeted = False
        self._sent: int | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports are no subclass of it
        self._transport.write(b"EHLO localhost\r\n")

    def data_received(self, data: bytes) -> None:
        if not self._greeted:
            if b"250 " in data:
                self._greeted = True
                self._transport.write(self._envelope)
            return
        if b"354 " in data:
            accepted, self._sent = self._sent, self._ids.pop()
            self._transport.write(self._body + self._envelope if self._ids else self._body)
            if accepted is not None:
                self._accepted(accepted)
        elif not self._ids and self._sent is not None:
            self._accepted(self._sent)
            self._transport.close()
            self._sent = None


async def floor(pool: asyncpg.Pool, options: Options) -> None:
    unrecorded: list[int] = []
    news = asyncio.Event()

    def accepted(number: int) -> None:
        unrecorded.append(number)
        news.set()

    body = prerendered(options.kilobytes)(0)
    ids = range(options.first, options.first + options.emails)
    loop = asyncio.get_running_loop()
    for place in range(options.connections):
        await loop.create_connection(
            lambda place=place: Pipe(list(ids[place :: options.connections]), body, accepted),  # type: ignore[misc]
            "127.0.0.1",
            options.port,
        )
    left = options.emails
    async with pool.acquire() as connection:
        record = await connection.prepare(RECORD)
        while left:
            await news.wait()
            news.clear()
            while len(unrecorded) >= min(GROUP, left) > 0:
                group, unrecorded[:GROUP] = unrecorded[:GROUP], []
                await record.fetch(group, REPLY)
                left -= len(group)


async def tasks(pool: asyncpg.Pool, options: Options) -> None:
    bodies = rendered(options.kilobytes)
    clients: queue.SimpleQueue[smtplib.SMTP] = queue.SimpleQueue()
    for _ in range(options.connections):
        clients.put(smtplib.SMTP("127.0.0.1", options.port, local_hostname="localhost"))
    left = options.emails
    done = asyncio.Event()

    def send(number: int) -> None:
        client = clients.get()
        client.sendmail(SENDER, [RECIPIENT], bodies(number))
        clients.put(client)

    async def work(message: aio_pika.abc.AbstractIncomingMessage) -> None:
        nonlocal left
        number = json.loads(message.body)["id"]
        await asyncio.to_thread(send, number)
        await pool.execute(RECORD, [number], REPLY)
        await message.ack()
        left -= 1
        if not left:
            done.set()

    name = f"tasks-{options.first}"
    consuming, publishing = await aio_pika.connect(options.amqp), await aio_pika.connect(options.amqp)
    async with consuming, publishing:
        channel = await consuming.channel()
        await channel.set_qos(options.connections)
        tasks_queue = await channel.declare_queue(name, durable=True)
        consumer = await tasks_queue.consume(work)
        outgoing = await publishing.channel()
        for start in range(options.first, options.first + options.emails, PUBLISHED_AT_ONCE):
            numbers = range(start, min(start + PUBLISHED_AT_ONCE, options.first + options.emails))
            messages = [
                aio_pika.Message(
                    json.dumps({"task": "send_email", "id": number}).encode(),
                    delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                )
                for number in numbers
            ]
            await asyncio.gather(*(outgoing.default_exchange.publish(one, name) for one in messages))
        await done.wait()
        await tasks_queue.cancel(consumer)
        await tasks_queue.delete(if_unused=False, if_empty=False)


Contestant = Callable[[asyncpg.Pool, Options], Awaitable[None]]
CONTESTANTS: dict[str, Contestant] = {"floor": floor, "tasks": tasks}

if __name__ == "__main__":
    main()

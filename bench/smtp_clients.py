"""The contestants of `bench.smtp` that are written in Python: each runs alone in a process and measures itself."""

import argparse
import asyncio
import json
import smtplib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import aiosmtplib
import uvloop

from bench.render import CAMPAIGN, DATA, DATE, EMAIL, SUBJECT, URL, sources
from services.sender.message import CampaignHeaders, MessageBuilder
from services.sender.smtp.config import RelayConfig
from services.sender.smtp.contract import Job, Outcome, Verdict
from services.sender.smtp.engine import Engine
from shared.templates import compile_content

SENDER, RECIPIENT = "news@example.com", EMAIL
LINE = b"A line of seventy-two octets, as they come in a newsletter's text, so.\r\n"
HEADERS = b"From: news@example.com\r\nTo: anna@example.org\r\nSubject: Spring news\r\nMIME-Version: 1.0\r\n\r\n"

Bodies = Callable[[int], bytes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("contestant", choices=sorted(CONTESTANTS))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--emails", type=int, required=True)
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--kilobytes", type=int, required=True)
    options = parser.parse_args()
    run = CONTESTANTS[options.contestant]
    begun, cpu = time.perf_counter(), time.process_time()
    run(options.port, options.emails, options.connections, options.kilobytes)
    print(json.dumps({"seconds": time.perf_counter() - begun, "cpu_seconds": time.process_time() - cpu}))


def prerendered(kilobytes: int) -> Bodies:
    """The same bytes each time: what the transport alone costs."""
    body = HEADERS + LINE * ((kilobytes * 1024 - len(HEADERS)) // len(LINE))
    return lambda _number: body


def rendered(kilobytes: int) -> Bodies:
    """A personal multipart message each time."""
    html, text = sources("latin", kilobytes * 1024)
    headers = CampaignHeaders(CAMPAIGN, SENDER, "Spring News", "reply@example.com", "news.example.com", "a:b:c:d")
    builder = MessageBuilder(compile_content(SUBJECT, html, text), headers)
    return lambda number: builder.build(number, EMAIL, DATA, DATE, URL)


class Email:
    """A job."""

    __slots__ = ("_bodies", "_number")
    mail_from, rcpt_to, smtputf8 = SENDER, RECIPIENT, False

    def __init__(self, number: int, bodies: Bodies) -> None:
        self._number = number
        self._bodies = bodies

    def body(self) -> bytes:
        return self._bodies(self._number)

    def may_send_body(self) -> bool:
        return True


class Emails:
    """A source of so many."""

    def __init__(self, emails: int, bodies: Bodies) -> None:
        self._left, self._open = emails, emails
        self._bodies = bodies
        self._filled, self.empty = asyncio.Event(), asyncio.Event()
        self._filled.set()

    def take(self) -> Job | None:
        if not self._left:
            self._filled.clear()
            return None
        self._left -= 1
        return Email(self._left, self._bodies)

    async def ready(self) -> None:
        await self._filled.wait()

    def done(self, job: Job, outcome: Outcome) -> None:
        if outcome.verdict is not Verdict.ACCEPTED:
            raise RuntimeError(f"{outcome}")
        self._open -= 1
        if not self._open:
            self.empty.set()


def engine(bodies_of: Callable[[int], Bodies]) -> Callable[[int, int, int, int], None]:
    async def deliver(port: int, emails: int, connections: int, kilobytes: int) -> None:
        relay = RelayConfig("sink", "127.0.0.1", port, connections=connections, max_emails_per_connection=10**9)
        source = Emails(emails, bodies_of(kilobytes))
        delivering = Engine([relay])
        running = asyncio.create_task(delivering.run(source))
        await source.empty.wait()
        await delivering.drain(1)
        await running

    return lambda *options: uvloop.run(deliver(*options))


def with_aiosmtplib(port: int, emails: int, connections: int, kilobytes: int) -> None:
    async def connection(numbers: "count[int]", bodies: Bodies) -> None:
        client = aiosmtplib.SMTP(hostname="127.0.0.1", port=port, start_tls=False, local_hostname="localhost")
        await client.connect()
        while (number := next(numbers)) < emails:
            await client.sendmail(SENDER, [RECIPIENT], bodies(number))
        await client.quit()

    async def deliver() -> None:
        numbers, bodies = count(), prerendered(kilobytes)
        await asyncio.gather(*(connection(numbers, bodies) for _ in range(connections)))

    uvloop.run(deliver())


def with_smtplib(port: int, emails: int, connections: int, kilobytes: int) -> None:
    numbers, bodies = count(), prerendered(kilobytes)

    def connection() -> None:
        with smtplib.SMTP("127.0.0.1", port, local_hostname="localhost") as client:
            while (number := next(numbers)) < emails:
                client.sendmail(SENDER, [RECIPIENT], bodies(number))

    with ThreadPoolExecutor(connections) as threads:
        for done in [threads.submit(connection) for _ in range(connections)]:
            done.result()


CONTESTANTS: dict[str, Callable[[int, int, int, int], None]] = {
    "engine": engine(prerendered),
    "engine+rendering": engine(rendered),
    "aiosmtplib": with_aiosmtplib,
    "smtplib": with_smtplib,
}

if __name__ == "__main__":
    main()

"""The Python contestants of `bench.smtp`. Each runs alone in a process and measures itself."""

import argparse
import asyncio
import json
import selectors
import smtplib
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count, cycle
from typing import cast

import aiosmtplib
import uvloop

from bench.render import CAMPAIGN, DATA, DATE, EMAIL, SUBJECT, URL, sources
from services.sender.smtp.contract import Job, Outcome, Verdict
from services.sender.smtp.engine import Engine
from shared.messages.message import CampaignHeaders, MessageBuilder
from shared.templates import compile_content
from tests.support.smtp.configs import engine_config, relay_config

SENDER, RECIPIENT = "news@example.com", EMAIL
LINE = b"A line of seventy-two octets, as they come in a newsletter's text, so.\r\n"
HEADERS = b"From: news@example.com\r\nTo: anna@example.org\r\nSubject: Spring news\r\nMIME-Version: 1.0\r\n\r\n"

Bodies = Callable[[int], bytes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("contestant", choices=sorted(CONTESTANTS))
    parser.add_argument("--port", type=int, required=True, action="append", help="several share the connections")
    parser.add_argument("--emails", type=int, required=True)
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--kilobytes", type=int, required=True)
    options = parser.parse_args()
    run = CONTESTANTS[options.contestant]
    begun, cpu = time.perf_counter(), time.process_time()
    run(options.port, options.emails, options.connections, options.kilobytes)
    print(json.dumps({"seconds": time.perf_counter() - begun, "cpu_seconds": time.process_time() - cpu}))


def prerendered(kilobytes: int) -> Bodies:
    """Sends the same bytes each time, to measure the transport alone."""
    body = HEADERS + LINE * ((kilobytes * 1024 - len(HEADERS)) // len(LINE))
    return lambda _number: body


def rendered(kilobytes: int) -> Bodies:
    """Renders a personal multipart message each time."""
    html, text = sources("latin", kilobytes * 1024)
    headers = CampaignHeaders(CAMPAIGN, SENDER, "Spring News", "reply@example.com", "", "news.example.com", "a:b:c:d")
    builder = MessageBuilder(compile_content(SUBJECT, html, text), headers)
    return lambda number: builder.build(number, EMAIL, DATA, DATE, URL)


class Email:
    """A job."""

    __slots__ = ("_bodies", "_number")
    mail_from, rcpt_to, smtputf8, token_from = SENDER, RECIPIENT, False, ""

    def __init__(self, number: int, bodies: Bodies) -> None:
        self._number = number
        self._bodies = bodies

    def body(self) -> bytes:
        return self._bodies(self._number)

    is_timed = False

    def may_send_body(self, relay: str) -> bool:
        return True


class Emails:
    """A source of a number of emails."""

    def __init__(self, emails: int, bodies: Bodies) -> None:
        self._left, self._open = emails, emails
        self._bodies = bodies
        self._filled, self.empty = asyncio.Event(), asyncio.Event()
        self._filled.set()

    def take(self, relay: str) -> Job | None:
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


def engine(bodies_of: Callable[[int], Bodies]) -> "Contestant":
    async def deliver(ports: Sequence[int], emails: int, connections: int, kilobytes: int) -> None:
        source = Emails(emails, bodies_of(kilobytes))
        share = connections // len(ports)
        engines = [
            Engine([relay_config(port, connections=share, max_emails_per_connection=10**9)], engine_config())
            for port in ports
        ]
        running = [asyncio.create_task(delivering.run(source)) for delivering in engines]
        await source.empty.wait()
        await asyncio.gather(*(delivering.drain(1) for delivering in engines), *running)

    return lambda *options: uvloop.run(deliver(*options))


def bare(ports: Sequence[int], emails: int, connections: int, kilobytes: int) -> None:
    """Writes the engine's bytes to plain sockets and ignores the content of replies: one round trip per email.

    Its rate is the limit of server and machine."""
    body = prerendered(kilobytes)(0) + b".\r\n"
    envelope = f"MAIL FROM:<{SENDER}>\r\nRCPT TO:<{RECIPIENT}>\r\nDATA\r\n".encode()
    left = {}
    with selectors.DefaultSelector() as selector:
        for number, port in zip(range(connections), cycle(ports), strict=False):
            client = socket.create_connection(("127.0.0.1", port))
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.recv(65536)
            client.sendall(b"EHLO localhost\r\n")
            client.recv(65536)
            client.sendall(envelope)
            left[client] = emails // connections + (number < emails % connections)
            selector.register(client, selectors.EVENT_READ)
        while left:
            for key, _ in selector.select():
                client = cast(socket.socket, key.fileobj)
                replies = client.recv(65536)
                if b"\r\n354 " in replies:
                    left[client] -= 1
                    client.sendall(body + envelope if left[client] else body)
                elif not left[client]:
                    del left[client]
                    selector.unregister(client)
                    client.close()


def with_aiosmtplib(ports: Sequence[int], emails: int, connections: int, kilobytes: int) -> None:
    async def connection(port: int, numbers: "count[int]", bodies: Bodies) -> None:
        client = aiosmtplib.SMTP(hostname="127.0.0.1", port=port, start_tls=False, local_hostname="localhost")
        await client.connect()
        while (number := next(numbers)) < emails:
            await client.sendmail(SENDER, [RECIPIENT], bodies(number))
        await client.quit()

    async def deliver() -> None:
        numbers, bodies = count(), prerendered(kilobytes)
        places = zip(range(connections), cycle(ports), strict=False)
        await asyncio.gather(*(connection(port, numbers, bodies) for _, port in places))

    uvloop.run(deliver())


def with_smtplib(ports: Sequence[int], emails: int, connections: int, kilobytes: int) -> None:
    numbers, bodies = count(), prerendered(kilobytes)

    def connection() -> None:
        with smtplib.SMTP("127.0.0.1", ports[0], local_hostname="localhost") as client:
            while (number := next(numbers)) < emails:
                client.sendmail(SENDER, [RECIPIENT], bodies(number))

    with ThreadPoolExecutor(connections) as threads:
        for done in [threads.submit(connection) for _ in range(connections)]:
            done.result()


Contestant = Callable[[Sequence[int], int, int, int], None]
CONTESTANTS: dict[str, Contestant] = {
    "bare": bare,
    "engine": engine(prerendered),
    "engine+rendering": engine(rendered),
    "aiosmtplib": with_aiosmtplib,
    "smtplib": with_smtplib,
}

if __name__ == "__main__":
    main()

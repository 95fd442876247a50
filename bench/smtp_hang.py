"""How much one email in 500 that hangs after its body slows the others, with the engine alone.

Runs with and without hanging emails alternate against the tests' relay, in a separate process; the median pair counts.
Throughput counts all emails except the hanging ones, until the last of them has its reply. bench.trouble measures the
whole system.
"""

import asyncio
import statistics
import time
import zlib
from dataclasses import dataclass

import uvloop
from rich.console import Console

from bench.smtp_clients import Email, Emails, prerendered
from bench.trouble import relay
from services.sender.smtp.contract import Job, Outcome, Verdict
from services.sender.smtp.engine import Engine
from tests.support.smtp.configs import engine_config, relay_config

ONE_IN = 500
LEAST_SHARE = 0.8
EMAILS = 40_000
CONNECTIONS = 8
KILOBYTES = 2


class ToSomeone(Email):
    """Addresses an email to a new recipient, since the relay hangs by address."""

    __slots__ = ("rcpt_to",)

    def __init__(self, number: int) -> None:
        super().__init__(number, prerendered(KILOBYTES))
        self.rcpt_to = f"person{number}@example.org"


class Crowd(Emails):
    """A source that ends when all emails are done except the hanging ones."""

    def __init__(self, emails: int, hanging: int) -> None:
        super().__init__(emails, prerendered(KILOBYTES))
        self._open -= hanging

    def take(self, relay: str) -> Job | None:
        job = super().take(relay)
        return ToSomeone(self._left) if job is not None else None

    def done(self, job: Job, outcome: Outcome) -> None:
        if outcome.verdict is not Verdict.AMBIGUOUS:  # the drain ends the hanging ones
            super().done(job, outcome)


@dataclass(frozen=True)
class Hanging:
    """Emails per second of each run, and the median pair's share."""

    clean: list[float]
    hanging: list[float]
    share: float


def measure(rounds: int) -> Hanging:
    rates: dict[str, list[float]] = {"clean": [], "hanging": []}
    for _ in range(rounds):
        for kind, one_in in (("clean", 0), ("hanging", ONE_IN)):
            with relay(kind, one_in) as port:
                rates[kind].append(uvloop.run(_run(port, one_in)))
    shares = [hanging / clean for clean, hanging in zip(rates["clean"], rates["hanging"], strict=True)]
    return Hanging(**rates, share=statistics.median(shares))


def show(console: Console, measured: Hanging) -> None:
    clean, hanging = statistics.median(measured.clean), statistics.median(measured.hanging)
    console.print(
        f"one email in {ONE_IN} hangs: {hanging:,.0f} of {clean:,.0f} emails/s, {measured.share:.0%}; "
        f"target at least {LEAST_SHARE:.0%}: {'reached' if measured.share >= LEAST_SHARE else 'NOT reached'}"
    )


async def _run(port: int, one_in: int) -> float:
    hanging = sum(
        zlib.crc32(f"person{number}@example.org".encode()) % one_in == 0 for number in range(EMAILS) if one_in
    )
    source = Crowd(EMAILS, hanging)
    engine = Engine([relay_config(port, connections=CONNECTIONS)], engine_config())
    began = time.perf_counter()
    running = asyncio.create_task(engine.run(source))
    await source.empty.wait()
    seconds = time.perf_counter() - began
    await engine.drain(0)
    await running
    return (EMAILS - hanging) / seconds

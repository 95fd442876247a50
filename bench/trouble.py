"""How much a few problem recipients slow the others: 5 % deferred, 1 in 500 greylisted for ever, 1 in 500 hanging.

The whole system on this machine, as in bench.campaign, PostgreSQL. Throughput counts attempts per second until the
last recipient has had its first attempt. A small campaign is sent alone, and again halfway through the large one. The
runs are interleaved; each is compared with the clean run of the same round, and the median counts.
"""

import argparse
import asyncio
import multiprocessing
import statistics
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.campaign import HTML, TEXT, folder, ledger_url, private_broker
from bench.reports import write_report
from bench.tables import show_table
from cli.local.broker import PrivateBroker
from cli.local.broker_files import ADMIN, SERVICES
from shared.ledger import migrate
from tests.support.relay import After, RecordingRelay
from tests.support.system import System, installation

ONE_IN = {"clean": 0, "deferred": 20, "greylisted": 500, "hanging": 500}
LEAST_SHARE = {"deferred": 0.9, "greylisted": 0.95, "hanging": 0.8}
DEFERRED = b"451 4.2.0 later\r\n"
GREYLISTED = b"451 4.7.1 Recipient address rejected: Greylisted for 5 minutes (always)\r\n"
LONGEST_RUN_SECONDS = 300.0
SMALL = 100
"""Recipients of the small campaign."""

MOST_TIMES, MOST_MORE_SECONDS = 1.2, 1.0
"""It may take this many times its time alone, plus this."""


@dataclass(frozen=True)
class Run:
    """One run of one kind. Seconds are those of the small campaign."""

    emails_per_second: float
    seconds_alone: float
    seconds_meanwhile: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipients", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=3, help="of each kind; the median counts")
    parser.add_argument("--kinds", nargs="+", choices=list(ONE_IN), default=list(ONE_IN), help="clean always runs")
    parser.add_argument(
        "--retry-seconds", type=int, default=2, help="first retry: soon enough to compete with the rest"
    )
    options = parser.parse_args()
    kinds = {kind: one_in for kind, one_in in ONE_IN.items() if kind == "clean" or kind in options.kinds}
    runs: dict[str, list[Run]] = {kind: [] for kind in kinds}
    console = Console()
    with private_broker() as broker:
        for number in range(options.runs):
            order = list(kinds.items())
            for kind, one_in in order if number % 2 else reversed(order):  # no kind always comes first
                with folder() as work, ledger_url("postgresql", work) as url, relay(kind, one_in) as port:
                    migrate.upgrade(url)
                    runs[kind].append(asyncio.run(_run(work, url, broker, port, options)))
                console.print(kind, runs[kind][-1], style="dim")
    return _report(console, runs, options)


@contextmanager
def relay(kind: str, one_in: int) -> Iterator[int]:
    """Starts a relay in a separate process. Yields its port."""
    ours, theirs = multiprocessing.Pipe()
    done = multiprocessing.Event()
    process = multiprocessing.Process(target=_serve, args=(theirs, done, kind, one_in))
    process.start()
    try:
        yield ours.recv()
    finally:
        done.set()
        process.join()


def _serve(told: Connection, done: Event, kind: str, one_in: int) -> None:
    trouble = DEFERRED if kind == "deferred" else After.SILENCE

    def dot(rcpt: str, tries: int) -> bytes | After:
        return trouble if one_in and not tries and zlib.crc32(rcpt.encode()) % one_in == 0 else After.ACCEPT

    def rcpt(address: str, _tries: int) -> bytes | None:
        return GREYLISTED if zlib.crc32(address.encode()) % one_in == 0 else None

    server = RecordingRelay()
    if kind == "greylisted":
        server.behaviour.rcpt = rcpt
    else:
        server.behaviour.dot = dot
    server.start()
    told.send(server.port)
    done.wait()
    server.stop()


async def _run(work: Path, url: str, broker: PrivateBroker, port: int, options: argparse.Namespace) -> Run:
    """First attempts per second, from `send`; and the small campaign, alone and meanwhile."""
    admin, services = broker.amqp_url(ADMIN), broker.amqp_url(SERVICES)
    relays = f"smtp://127.0.0.1:{port}?tls=none"
    async with installation(work, url, admin, services, relay=None, relays=relays) as system:
        await system.start(senders=1)
        alone = await _small(system, "alone")
        campaign = await system.create(
            options.recipients, html=HTML, text=TEXT, retry_delay_seconds=options.retry_seconds
        )
        hanging = options.recipients * 2 // ONE_IN["hanging"]  # more than the hanging ones
        began = time.monotonic()
        await system.send(campaign)
        half = options.recipients // 2
        await system.wait_until(campaign, lambda answer: answer["counts"]["pending"] <= half, LONGEST_RUN_SECONDS)
        meanwhile = asyncio.create_task(_small(system, "meanwhile"))
        await system.wait_until(campaign, lambda answer: answer["counts"]["pending"] <= hanging, LONGEST_RUN_SECONDS)
        rate = (options.recipients - hanging) / (time.monotonic() - began)
        return Run(rate, alone, await meanwhile)


async def _small(system: System, name: str) -> float:
    """Sends a small campaign without trouble. Returns the seconds from `send` until all of it was sent."""
    clear = (f"{name}-{number}@example.test" for number in range(10 * SMALL))
    recipients = [address for address in clear if all(zlib.crc32(address.encode()) % n for n in (20, 500))][:SMALL]
    campaign = await system.create(recipients, html=HTML, text=TEXT)
    began = time.monotonic()
    await system.send(campaign)
    await system.wait_until(campaign, lambda answer: answer["counts"]["sent"] == SMALL, LONGEST_RUN_SECONDS)
    return time.monotonic() - began


def _report(console: Console, runs: dict[str, list[Run]], options: argparse.Namespace) -> int:
    table = Table(title=f"{options.recipients} recipients, median of {options.runs}; a small campaign of {SMALL}")
    for heading in ("run", "emails/s", "share of clean", "at least", "small alone s", "meanwhile s", "at most"):
        table.add_column(heading, justify="right")
    missed = False
    shares = {}
    for kind, found in runs.items():
        pairs = zip(found, runs["clean"], strict=True)
        shares[kind] = statistics.median(run.emails_per_second / clean.emails_per_second for run, clean in pairs)
        rate = statistics.median(run.emails_per_second for run in found)
        alone = statistics.median(run.seconds_alone for run in found)
        meanwhile = statistics.median(run.seconds_meanwhile for run in found)
        least, most = LEAST_SHARE.get(kind), MOST_TIMES * alone + MOST_MORE_SECONDS
        missed = missed or meanwhile > most or (least is not None and shares[kind] < least)
        cells = (f"{rate:.0f}", f"{shares[kind]:.0%}", "" if least is None else f"{least:.0%}")
        table.add_row(kind, *cells, f"{alone:.2f}", f"{meanwhile:.2f}", f"{most:.2f}")
    show_table(table, console)
    written = {kind: [asdict(run) for run in found] for kind, found in runs.items()}
    path = write_report("trouble", options=vars(options), runs=written, shares=shares)
    console.print(f"All runs: {path}")
    return int(missed)


if __name__ == "__main__":
    raise SystemExit(main())

"""How much a few problem recipients slow the others: 5 % deferred, 1 in 500 greylisted for ever, 1 in 500 hanging.

The whole system on this machine, as in bench.campaign, PostgreSQL. Throughput counts attempts per second until the
last recipient has had its first attempt. The runs are interleaved, and each kind is compared with the clean runs.
"""

import argparse
import asyncio
import json
import multiprocessing
import statistics
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.campaign import HTML, REPORTS, TEXT, folder, ledger_url, private_broker
from cli.local.broker import PrivateBroker
from cli.local.broker_files import ADMIN, SERVICES
from shared.ledger import migrate
from tests.support.relay import After, RecordingRelay
from tests.support.system import installation

ONE_IN = {"clean": 0, "deferred": 20, "greylisted": 500, "hanging": 500}
LEAST_SHARE = {"deferred": 0.9, "greylisted": 0.95, "hanging": 0.8}
DEFERRED = b"451 4.2.0 later\r\n"
GREYLISTED = b"451 4.7.1 Recipient address rejected: Greylisted for 5 minutes (always)\r\n"
LONGEST_RUN_SECONDS = 300.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipients", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=3, help="of each kind; the median counts")
    parser.add_argument(
        "--retry-seconds", type=int, default=2, help="first retry: soon enough to compete with the rest"
    )
    options = parser.parse_args()
    rates: dict[str, list[float]] = {kind: [] for kind in ONE_IN}
    console = Console()
    with private_broker() as broker:
        for _ in range(options.runs):
            for kind, one_in in ONE_IN.items():
                with folder() as work, ledger_url("postgresql", work) as url, relay(kind, one_in) as port:
                    migrate.upgrade(url)
                    rates[kind].append(asyncio.run(_run(work, url, broker, port, options)))
                console.print(f"{kind}: {rates[kind][-1]:.0f} emails/s", style="dim")
    return _report(console, rates, options)


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


async def _run(work: Path, url: str, broker: PrivateBroker, port: int, options: argparse.Namespace) -> float:
    """First attempts per second, from `send`."""
    admin, services = broker.amqp_url(ADMIN), broker.amqp_url(SERVICES)
    relays = f"smtp://127.0.0.1:{port}?tls=none"
    async with installation(work, url, admin, services, relay=None, relays=relays) as system:
        await system.start(senders=1)
        campaign = await system.create(
            options.recipients, html=HTML, text=TEXT, retry_delay_seconds=options.retry_seconds
        )
        hanging = options.recipients * 2 // ONE_IN["hanging"]  # more than the hanging ones
        began = time.monotonic()
        await system.send(campaign)
        await system.wait_until(campaign, lambda answer: answer["counts"]["pending"] <= hanging, LONGEST_RUN_SECONDS)
        return float((options.recipients - hanging) / (time.monotonic() - began))


def _report(console: Console, rates: dict[str, list[float]], options: argparse.Namespace) -> int:
    medians = {kind: statistics.median(values) for kind, values in rates.items()}
    table = Table(title=f"{options.recipients} recipients, median of {options.runs}")
    for heading in ("run", "emails/s", "share of clean", "at least"):
        table.add_column(heading, justify="right")
    shares = {kind: medians[kind] / medians["clean"] for kind in medians}
    for kind, rate in medians.items():
        least = LEAST_SHARE.get(kind)
        table.add_row(kind, f"{rate:.0f}", f"{shares[kind]:.0%}", "" if least is None else f"{least:.0%}")
    console.print(table)
    REPORTS.mkdir(parents=True, exist_ok=True)
    path = REPORTS / "trouble.json"
    path.write_text(json.dumps({"options": vars(options), "emails_per_second": rates, "shares": shares}, indent=2))
    console.print(f"All runs: {path}")
    return 1 if any(shares[kind] < least for kind, least in LEAST_SHARE.items()) else 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Each service on another machine: throughput and fairness by the distance to broker and database.

Each service runs in its own network namespace, joined to the others by veth and a bridge. Broker and database are
behind proxies that add a round trip; the relay is near. While a large campaign is sent, a small one starts beside it.
Needs root. Prints a table, writes JSON under var/bench/.
"""

import argparse
import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table

from bench.campaign import HTML, TEXT, folder, private_broker
from bench.reports import write_report
from bench.tables import show_table
from cli.local.broker import PrivateBroker
from cli.local.broker_files import ADMIN, SERVICES
from cli.local.ports import free_port
from cli.local.postgres import PrivatePostgres
from shared.ledger import migrate
from tests.support.smtp.sink import smtp_sink, wait_for_port
from tests.support.system import System, installation

BRIDGE = "vsbench"
GATEWAY = "10.98.0.1"
SMALL = 500
BESIDE_SECONDS = 2.0
LONGEST_SECONDS = 600.0


@dataclass(frozen=True)
class Run:
    """One large campaign, with a small one of SMALL recipients that starts BESIDE_SECONDS later."""

    round_trip_ms: float
    emails_per_second: float
    #: Seconds from `send` of the small campaign to its first email and to its last one, recorded.
    small_first_seconds: float
    small_all_seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipients", type=int, default=20_000)
    parser.add_argument("--senders", type=int, default=2)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--round-trips", type=float, nargs="+", default=[0, 20], metavar="MS")
    parser.add_argument("--runs", type=int, default=3, help="runs per distance; the median counts")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # else bridge and namespaces would stay
    runs: dict[float, list[Run]] = {round_trip: [] for round_trip in options.round_trips}
    with private_broker() as broker, smtp_sink() as sink, bridge():
        for _ in range(options.runs):
            for round_trip in options.round_trips:
                with folder() as work, database(work) as postgres, ExitStack() as stack:
                    near = stack.enter_context(proxy(sink, 0))
                    ports = {
                        "broker": stack.enter_context(proxy(broker.amqp_port, round_trip / 1000)),
                        "database": stack.enter_context(proxy(postgres.port, round_trip / 1000)),
                    }
                    relay = f"smtp://{GATEWAY}:{near}?tls=none"
                    url = postgres.create_database("bench")
                    migrate.upgrade(url)
                    found = asyncio.run(one_run(work, url, broker, ports, relay, round_trip, options))
                runs[round_trip].append(found)
    report(runs, options)


async def one_run(
    work: Path,
    url: str,
    broker: PrivateBroker,
    ports: dict[str, int],
    relay: str,
    round_trip: float,
    options: argparse.Namespace,
) -> Run:
    settings = {
        "smtp_connections": str(options.connections),
        "relays": relay,
        "http_host": "0.0.0.0",
    }
    async with installation(work, url, broker.amqp_url(ADMIN), "", relay=None, **settings) as system:
        system.database_url = behind(url, ports["database"])
        system.services_url = behind(broker.amqp_url(SERVICES), ports["broker"])
        senders = [f"sender-{number}" for number in range(1, options.senders + 1)]
        with ExitStack() as machines:
            for number, name in enumerate(["api", "dispatcher", "watchdog", *senders], start=2):
                launch(system, name, machines.enter_context(machine(work, name, number)), f"10.98.0.{number}")
            await asyncio.gather(*(process.wait_ready() for process in system.processes.values()))
            try:
                return await _campaigns(system, round_trip, options)
            finally:
                system.kill_all()


async def _campaigns(system: System, round_trip: float, options: argparse.Namespace) -> Run:
    large = await system.create(options.recipients, html=HTML, text=TEXT)
    small = await system.create([f"small-{number}@example.test" for number in range(SMALL)], html=HTML, text=TEXT)
    began = time.monotonic()
    await system.send(large)
    await asyncio.sleep(BESIDE_SECONDS)
    beside = time.monotonic()
    await system.send(small)
    await system.wait_until(small, lambda answer: answer["counts"]["sent"] > 0, LONGEST_SECONDS)
    first = time.monotonic() - beside
    await system.wait_until(small, lambda answer: answer["counts"]["sent"] == SMALL, LONGEST_SECONDS)
    every = time.monotonic() - beside
    await system.wait_until(large, lambda answer: answer["counts"]["sent"] == options.recipients, LONGEST_SECONDS)
    seconds = time.monotonic() - began
    return Run(round_trip, round((options.recipients + SMALL) / seconds), round(first, 2), round(every, 2))


def launch(system: System, name: str, python: Path, address: str) -> None:
    """Starts one service on its machine, where `python` is a script that enters the machine."""
    system.python = str(python)
    process = system.launch(name.partition("-")[0], name)
    process.http_url = f"http://{address}:{urlsplit(process.http_url).port}"


def behind(url: str, port: int) -> str:
    """The URL through a proxy at the bridge."""
    parts = urlsplit(url)
    return parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@{GATEWAY}:{port}").geturl()


@contextmanager
def bridge() -> Iterator[None]:
    ip("link", "add", BRIDGE, "type", "bridge")
    try:
        ip("address", "add", f"{GATEWAY}/24", "dev", BRIDGE)
        ip("link", "set", BRIDGE, "up")
        yield
    finally:
        ip("link", "delete", BRIDGE)


@contextmanager
def machine(work: Path, name: str, number: int) -> Iterator[Path]:
    """A namespace on the bridge with the address 10.98.0.`number`, and a script that runs Python in it."""
    space, end = f"{BRIDGE}-{name}", f"vsb{number}"
    ip("netns", "add", space)
    try:
        ip("link", "add", end, "type", "veth", "peer", "name", "eth0", "netns", space)
        ip("link", "set", end, "master", BRIDGE, "up")
        for command in (f"address add 10.98.0.{number}/24 dev eth0", "link set eth0 up", "link set lo up"):
            ip("-netns", space, *command.split())
        script = work / f"python-{name}"
        script.write_text(f'#!/bin/sh\nexec ip netns exec {space} {sys.executable} "$@"\n')
        script.chmod(0o755)
        yield script
    finally:
        ip("netns", "delete", space)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


@contextmanager
def proxy(target: int, round_trip_seconds: float) -> Iterator[int]:
    port = free_port()
    command = [sys.executable, "-m", "bench.delay", str(port), str(target), str(round_trip_seconds), "0.0.0.0"]
    process = subprocess.Popen(command)
    try:
        wait_for_port(port, process)
        yield port
    finally:
        process.kill()
        process.wait()


@contextmanager
def database(work: Path) -> Iterator[PrivatePostgres]:
    postgres = PrivatePostgres(work / "postgres", free_port())
    postgres.start()
    postgres.wait_ready()
    try:
        yield postgres
    finally:
        postgres.stop()


def report(runs: dict[float, list[Run]], options: argparse.Namespace) -> None:
    console = Console()
    table = Table(title=f"{options.recipients} recipients, {options.senders} senders, median of {options.runs}")
    for heading in ("round trip ms", "emails/s", f"first of {SMALL} beside it, s", "all of them, s"):
        table.add_column(heading, justify="right")
    for found in runs.values():
        median = sorted(found, key=lambda run: run.emails_per_second)[len(found) // 2]
        table.add_row(*(f"{value:g}" for value in asdict(median).values()))
    show_table(table, console)
    every = [asdict(run) for found in runs.values() for run in found]
    console.print(f"All runs: {write_report('machines', options=vars(options), runs=every)}")


if __name__ == "__main__":
    main()

"""The whole system beside other ways to send: emails per second and CPU, by recipients, by senders, by size.

Contestants: ours (api, dispatcher, watchdog, senders; PostgreSQL and RabbitMQ counted), the two of
`bench.compare_clients` that write rows, and two that write none and render nothing: a loop of aiosmtplib, and Postfix's
C client smtp-source. All send to the same smtp-sink over 8 connections per process; all take turns, each round runs all
of them. `--keep` makes the result the one of docs/benchmarks.md.
"""

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from bench.campaign import SENTENCE, cpu_seconds, folder, private_broker, private_postgres
from bench.compare_clients import prepare
from bench.footprint import server_seconds
from bench.reports import REPORTS
from bench.smtp import cpu_of_children
from cli.local.broker import PrivateBroker
from cli.local.broker_files import ADMIN, SERVICES
from cli.local.postgres import PrivatePostgres
from scripts import benchmarks
from shared.ledger import migrate
from tests.support.smtp.sink import smtp_sink, smtp_source
from tests.support.system import installation

REPORT = REPORTS / "compare.json"
CONNECTIONS = 8
LINE = "Some long text of a newsletter with words and more words.\n"
LONGEST_SECONDS = 3600.0
MOST_TASKS = 20_000
"""One task per email is so slow that more recipients are left out."""


class Cell(NamedTuple):
    recipients: int
    senders: int
    kilobytes: int


BASE = Cell(10_000, 1, 10)
CELLS = (
    BASE,
    BASE._replace(senders=2),
    BASE._replace(kilobytes=1),
    BASE._replace(kilobytes=100),
    BASE._replace(recipients=100_000),
)


@dataclass(frozen=True)
class Run:
    """Microseconds of CPU are per email: of the program's own processes, and of PostgreSQL and RabbitMQ."""

    who: str
    recipients: int
    senders: int
    kilobytes: int
    emails_per_second: float
    own_microseconds: float
    servers_microseconds: float
    load: float


class Took(NamedTuple):
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Place:
    """What all contestants share."""

    work: Path
    postgres: PrivatePostgres
    broker: PrivateBroker
    port: int

    def servers(self) -> float:
        """CPU seconds of PostgreSQL and RabbitMQ so far."""
        return sum(server_seconds(path) for path in (self.postgres.cluster, self.broker.data_dir))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--most-recipients", type=int, default=100_000)
    parser.add_argument("--million", action="store_true", help="also 1,000,000 recipients")
    parser.add_argument("--keep", action="store_true", help="write docs/benchmarks.json and the page")
    options = parser.parse_args()
    cells = [*CELLS, *([BASE._replace(recipients=1_000_000)] if options.million else [])]
    runs: list[Run] = []
    with place() as here:
        for _ in range(options.rounds):
            for cell in (cell for cell in cells if cell.recipients <= options.most_recipients):
                for who in benchmarks.CONTESTANTS:
                    if who != benchmarks.TASKS or cell.recipients <= MOST_TASKS:
                        runs.append(run_once(here, who, cell))
                        Console().print(str(runs[-1]), style="dim")
                keep(runs, REPORT)
    if options.keep:
        keep(runs, benchmarks.MEASURED)
        benchmarks.main()


def keep(runs: list[Run], path: Path) -> None:
    machine = {"cpus": os.cpu_count(), "python": platform.python_version()}
    lines = ",\n".join("  " + json.dumps(asdict(run)) for run in runs)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{{"machine": {json.dumps(machine)}, "runs": [\n{lines}\n]}}\n')


@contextmanager
def place() -> Iterator[Place]:
    with private_broker() as broker, smtp_sink() as port, folder() as work, private_postgres(work) as postgres:
        yield Place(work, postgres, broker, port)


def run_once(here: Place, who: str, cell: Cell) -> Run:
    """One run of one contestant with a new database."""
    url = here.postgres.create_database("bench")
    try:
        if who == benchmarks.OURS:
            migrate.upgrade(url)
            took, servers = asyncio.run(ours(here, url, cell))
        else:
            before = here.servers()
            took = smtp_source_run(here.port, cell) if who == "smtp-source" else clients(here, who, url, cell)
            servers = here.servers() - before
    finally:
        here.postgres.drop_database("bench")
    per_email = 1e6 / cell.recipients
    return Run(
        who, *cell, emails_per_second=round(cell.recipients / took.seconds, 1),
        own_microseconds=round(took.cpu_seconds * per_email, 1), servers_microseconds=round(servers * per_email, 1),
        load=round(os.getloadavg()[0], 1),
    )  # fmt: skip


async def ours(here: Place, url: str, cell: Cell) -> tuple[Took, float]:
    """From `send` to the last row recorded; and the CPU seconds of the servers meanwhile."""
    relay = f"smtp://127.0.0.1:{here.port}?tls=none"
    with folder() as work:
        async with installation(
            work, url, here.broker.amqp_url(ADMIN), here.broker.amqp_url(SERVICES), relay=None,
            relays=relay, smtp_connections=str(CONNECTIONS),
        ) as system:  # fmt: skip
            await system.start(cell.senders)
            campaign = await system.create(cell.recipients, **content(cell.kilobytes))
            own, servers, began = sum(cpu_seconds(system).values()), here.servers(), time.monotonic()
            await system.send(campaign)
            await system.wait_until(
                campaign, lambda answer: answer["counts"]["sent"] == cell.recipients, LONGEST_SECONDS
            )
            seconds = time.monotonic() - began
            return Took(seconds, sum(cpu_seconds(system).values()) - own), here.servers() - servers


def content(kilobytes: int) -> Mapping[str, str]:
    """Templates of a message of about this size; headers take 1 KB of it."""
    hello = "{{ name|default('you') }}"
    return {
        "html": f"<p>Hello {hello}</p>" + SENTENCE * max(1, round(4.5 * kilobytes - 4)),
        "text": f"Dear {hello},\n" + LINE * max(1, round(3 * kilobytes - 3)),
    }


def clients(here: Place, who: str, url: str, cell: Cell) -> Took:
    """A contestant in Python, as one process per sender; they begin together."""
    module, words = "bench.smtp_clients", dict[str, object]()
    if who != "aiosmtplib":
        module, database = "bench.compare_clients", url.replace("postgresql+asyncpg://", "postgresql://")
        asyncio.run(prepare(database))
        words = {"database": database, "amqp": here.broker.amqp_url(ADMIN)}
    share = cell.recipients // cell.senders
    words |= {"port": here.port, "emails": share, "connections": CONNECTIONS, "kilobytes": cell.kilobytes}
    command = [sys.executable, "-m", module, who, *(f"--{name}={value}" for name, value in words.items())]
    started = [
        subprocess.Popen(
            command if who == "aiosmtplib" else [*command, f"--first={1 + number * share}"], stdout=subprocess.PIPE
        )
        for number in range(cell.senders)
    ]
    found = []
    for process in started:
        output, _ = process.communicate()
        if process.returncode:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        found.append(json.loads(output))
    return Took(max(one["seconds"] for one in found), sum(one["cpu_seconds"] for one in found))


def smtp_source_run(port: int, cell: Cell) -> Took:
    """The C client, which has all connections in one process."""
    began, cpu = time.perf_counter(), cpu_of_children()
    smtp_source(port, sessions=CONNECTIONS * cell.senders, emails=cell.recipients, size=cell.kilobytes * 1024)
    return Took(time.perf_counter() - began, cpu_of_children() - cpu)


if __name__ == "__main__":
    main()

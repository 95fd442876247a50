"""Emails per second from `send` to the last row recorded, and CPU per email of each process.

The whole system on this machine: a private broker, the ledger on SQLite and on PostgreSQL (both durable), api,
dispatcher, watchdog, senders, and Postfix's smtp-sink as the relay. Prints a table, writes JSON under var/bench/.
"""

import argparse
import asyncio
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
import psutil
from rich.console import Console
from rich.table import Table

from bench.reports import write_report
from bench.tables import show_table
from cli.local.broker import PrivateBroker
from cli.local.broker_files import ADMIN, SERVICES
from cli.local.ports import free_port
from cli.local.postgres import PrivatePostgres
from shared.ledger import migrate
from tests.support.smtp.sink import smtp_sink
from tests.support.system import System, installation

LEAST_POLL_SECONDS, MOST_POLL_SECONDS = 0.005, 0.05
LONGEST_SECONDS, LEAST_RATE = 300.0, 1_000.0
"""How long a campaign may take: so long, or longer if it has more recipients than are sent then at so many a second."""
SENTENCE = (
    "<p>Some long text of a newsletter with words and more words, and a <a href='https://example.com/'>link</a>.</p>"
)
HTML = "<html><body><h1>Hello {{ name|default('you') }}</h1>" + SENTENCE * 45 + "</body></html>"
TEXT = "Dear {{ name|default('you') }},\n" + "Some long text of a newsletter with words and more words.\n" * 30


@dataclass(frozen=True)
class Run:
    """One campaign on one ledger. `seconds` is the time from `send` to the last row recorded."""

    recipients: int
    seconds: float
    emails_per_second: float
    import_seconds: float
    cpu_microseconds_per_email: dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipients", type=int, default=10_000)
    parser.add_argument("--senders", type=int, default=1)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--runs", type=int, default=3, help="runs per database; the median counts")
    parser.add_argument("--databases", nargs="+", default=["sqlite", "postgresql"])
    options = parser.parse_args()
    console = Console()
    results: dict[str, list[Run]] = {database: [] for database in options.databases}
    with private_broker() as broker, smtp_sink() as port:
        relay = f"smtp://127.0.0.1:{port}?tls=none"
        for _ in range(options.runs):
            for database in options.databases:  # interleaved, so that both share the same conditions
                with folder() as work, ledger_url(database, work) as url:
                    migrate.upgrade(url)
                    result = asyncio.run(one_run(work, url, broker, relay, options))
                results[database].append(result)
                console.print(f"{database}: {result.emails_per_second:.0f} emails/s", style="dim")
    report(console, results, options)


async def one_run(work: Path, url: str, broker: PrivateBroker, relay: str, options: argparse.Namespace) -> Run:
    """One campaign from creation to the last row recorded."""
    settings = {"smtp_connections": str(options.connections), "relays": relay}
    async with installation(
        work, url, broker.amqp_url(ADMIN), broker.amqp_url(SERVICES), relay=None, **settings
    ) as system:
        await system.start(options.senders)
        before_import = time.monotonic()
        campaign = await system.create(options.recipients, html=HTML, text=TEXT)
        imported = time.monotonic() - before_import
        with closing(Client(system)) as api:
            path = f"/v1/campaigns/{campaign}"
            api.ask("GET", path)  # opens the connection
            before = cpu_seconds(system)
            sent, seconds, lately = 0, 0.0, 0.0
            began = time.monotonic()
            api.ask("POST", f"{path}/send", "{}")
            async with asyncio.timeout(max(LONGEST_SECONDS, options.recipients / LEAST_RATE)):
                while sent < options.recipients:
                    await asyncio.sleep(until_next_poll(options.recipients - sent, lately))
                    sent_before, seconds_before = sent, seconds
                    sent = api.ask("GET", path)["counts"]["sent"]
                    seconds = time.monotonic() - began
                    lately = (sent - sent_before) / (seconds - seconds_before)
        used = cpu_seconds(system)
    return Run(
        recipients=sent,
        seconds=round(seconds, 3),
        emails_per_second=round(options.recipients / seconds, 1),
        import_seconds=round(imported, 3),
        cpu_microseconds_per_email={
            name: round((used[name] - before[name]) / options.recipients * 1e6, 1) for name in used
        },
    )


class Client:
    """Asks the API over one connection. It shares two cores with what is measured, so it takes little: 0.3 ms each time
    (httpx 2.2 ms)."""

    def __init__(self, system: System) -> None:
        api = urlsplit(system.processes["api"].http_url)
        assert api.hostname is not None
        self._connection = HTTPConnection(api.hostname, api.port, timeout=60)
        self._headers = {"Authorization": f"Bearer {system.key}", "Content-Type": "application/json"}

    def ask(self, method: str, path: str, body: str | None = None) -> Any:
        """The answer, which must be a success."""
        self._connection.request(method, path, body, self._headers)
        response = self._connection.getresponse()
        answer = response.read()
        assert response.status < 300, answer.decode(errors="replace")
        return orjson.loads(answer)

    def close(self) -> None:
        self._connection.close()


def until_next_poll(left: int, emails_per_second: float) -> float:
    """Seconds to wait: MOST_POLL_SECONDS, or until all should be sent, so that a campaign of a second does not seem to
    take a twentieth longer."""
    seconds = left / emails_per_second if emails_per_second > 0 else MOST_POLL_SECONDS
    return min(max(seconds, LEAST_POLL_SECONDS), MOST_POLL_SECONDS)


def cpu_seconds(system: System) -> dict[str, float]:
    return {name: sum(psutil.Process(process.pid).cpu_times()[:2]) for name, process in system.processes.items()}


def report(console: Console, results: dict[str, list[Run]], options: argparse.Namespace) -> None:
    """The median run of each database, as a table and as JSON."""
    medians = {
        database: sorted(runs, key=lambda run: run.emails_per_second)[len(runs) // 2]
        for database, runs in results.items()
    }
    processes = sorted({name for run in medians.values() for name in run.cpu_microseconds_per_email})
    table = Table(
        title=f"{options.recipients} recipients, 10 KB, {options.senders} sender(s), median of {options.runs}"
    )
    for heading in ("ledger", "emails/s", "seconds", *(f"{name}\nus/email" for name in processes)):
        table.add_column(heading, justify="right")
    for database, run in medians.items():
        cpu = [f"{run.cpu_microseconds_per_email[name]:.0f}" for name in processes]
        table.add_row(database, f"{run.emails_per_second:.0f}", f"{run.seconds:.2f}", *cpu)
    show_table(table, console)
    runs = {database: [asdict(run) for run in runs] for database, runs in results.items()}
    console.print(f"All runs: {write_report('campaign', options=vars(options), runs=runs)}")


@contextmanager
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="vashsender-bench-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def private_broker() -> Iterator[PrivateBroker]:
    with folder() as work:
        broker = PrivateBroker(work, *(free_port() for _ in range(5)))
        broker.start()
        broker.wait_ready()
        try:
            yield broker
        finally:
            broker.stop()


@contextmanager
def ledger_url(database: str, work: Path) -> Iterator[str]:
    if database == "sqlite":
        yield f"sqlite+aiosqlite:///{work / 'ledger.db'}"
        return
    with private_postgres(work) as postgres:
        yield postgres.create_database("bench")


@contextmanager
def private_postgres(work: Path) -> Iterator[PrivatePostgres]:
    """A durable server in this folder."""
    postgres = PrivatePostgres(work / "postgres", free_port())
    postgres.start()
    postgres.wait_ready()
    try:
        yield postgres
    finally:
        postgres.stop()


if __name__ == "__main__":
    main()

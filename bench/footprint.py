"""The cost of an email in all parts: CPU of each process, of PostgreSQL and of RabbitMQ, disk space and WAL of the
database, messages on the broker. docs/scaling.md uses these numbers.

The whole system on this machine as in bench.campaign, the ledger on a durable PostgreSQL, smtp-sink as the relay. CPU
is measured from `send` to the last row recorded, disk space at the end after a checkpoint. Prints a table, writes JSON.
"""

import argparse
import asyncio
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import psutil
from rich.console import Console
from rich.table import Table

from bench.campaign import HTML, TEXT, cpu_seconds, folder, private_broker, private_postgres
from bench.reports import write_report
from bench.tables import show_table
from cli.local.broker import PrivateBroker
from cli.local.broker_files import ADMIN, SERVICES
from cli.local.postgres import PrivatePostgres
from shared.ledger import migrate
from tests.support.smtp.sink import smtp_sink
from tests.support.system import System, installation

LONGEST_SECONDS = 600.0
DATABASE = "bench"


@dataclass(frozen=True)
class Footprint:
    """Per email, for a campaign of `recipients`. `wal_bytes`: WAL of the import and of sending."""

    recipients: int
    senders: int
    emails_per_second: float
    cpu_microseconds: dict[str, float]
    ledger_bytes: dict[str, float]
    wal_bytes: dict[str, float]
    broker_messages: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipients", type=int, default=50_000)
    parser.add_argument("--senders", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--connections", type=int, default=8)
    options = parser.parse_args()
    found = []
    for senders in options.senders:
        with private_broker() as broker, smtp_sink() as port, folder() as work:
            relay = f"smtp://127.0.0.1:{port}?tls=none"
            found.append(_measured(work, broker, relay, senders, options))
    report(found)


def _measured(work: Path, broker: PrivateBroker, relay: str, senders: int, options: argparse.Namespace) -> Footprint:
    with private_postgres(work) as postgres:
        url = postgres.create_database(DATABASE)
        migrate.upgrade(url)
        return asyncio.run(_one_run(work, url, postgres, broker, relay, senders, options))


async def _one_run(
    work: Path,
    url: str,
    postgres: PrivatePostgres,
    broker: PrivateBroker,
    relay: str,
    senders: int,
    options: argparse.Namespace,
) -> Footprint:
    recipients = options.recipients
    settings = {"smtp_connections": str(options.connections), "relays": relay}
    async with installation(
        work, url, broker.amqp_url(ADMIN), broker.amqp_url(SERVICES), relay=None, **settings
    ) as system:
        await system.start(senders)
        empty = _log_position(postgres)
        campaign = await system.create(recipients, html=HTML, text=TEXT)
        imported = _log_position(postgres)
        used, published = _cpu(system, postgres, broker), await _published(system)
        began = time.monotonic()
        await system.send(campaign)
        answer = await system.wait_until(
            campaign, lambda answer: answer["counts"]["sent"] == recipients, LONGEST_SECONDS
        )
        seconds = time.monotonic() - began
        spent, told = _cpu(system, postgres, broker), await _published(system)
        sent = _log_position(postgres)
        assert answer["counts"]["sent"] == recipients
    return Footprint(
        recipients=recipients,
        senders=senders,
        emails_per_second=round(recipients / seconds),
        cpu_microseconds={name: round((spent[name] - used[name]) / recipients * 1e6, 1) for name in spent},
        ledger_bytes=_room(postgres, recipients),
        wal_bytes={
            "import": round((imported - empty) / recipients, 1),
            "sending": round((sent - imported) / recipients, 1),
        },
        broker_messages=round((told - published) / recipients, 4),
    )


def _cpu(system: System, postgres: PrivatePostgres, broker: PrivateBroker) -> dict[str, float]:
    """CPU seconds so far of each of our processes (senders together), PostgreSQL and RabbitMQ."""
    used = cpu_seconds(system)
    senders = sum(used.pop(name) for name in list(used) if name.startswith("sender"))
    servers = {"postgresql": postgres.cluster, "rabbitmq": broker.data_dir}
    return {**used, "senders": senders, **{name: server_seconds(path) for name, path in servers.items()}}


def server_seconds(data: Path) -> float:
    """CPU seconds of every process started for this folder and its children, including ended ones."""
    roots = [
        one for one in psutil.process_iter(["cmdline"]) if any(str(data) in word for word in one.info["cmdline"] or ())
    ]
    every = {one.pid: one for root in roots for one in (root, *root.children(recursive=True))}
    return sum(_of(list(every.values())))


def _of(processes: Iterable[psutil.Process]) -> Iterable[float]:
    for process in processes:
        try:
            yield sum(process.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue


async def _published(system: System) -> float:
    """Messages handed to the broker by all services."""
    total = 0.0
    async with httpx.AsyncClient(trust_env=False) as client:
        for process in system.processes.values():
            text = (await client.get(f"{process.http_url}/metrics")).raise_for_status().text
            total += sum(
                float(line.rpartition(" ")[2])
                for line in text.splitlines()
                if line.startswith("vashsender_events_published_total{")
            )
    return total


def _log_position(postgres: PrivatePostgres) -> float:
    return float(postgres.query("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')"))


def _room(postgres: PrivatePostgres, recipients: int) -> dict[str, float]:
    """Bytes per recipient with indexes, by table. Tables with less than one byte are omitted."""
    postgres.query("CHECKPOINT", DATABASE)
    rows = postgres.query(
        "SELECT relname, pg_total_relation_size(oid) FROM pg_class WHERE relkind = 'r' AND relnamespace = "
        "'public'::regnamespace ORDER BY 2 DESC",
        DATABASE,
    )
    sizes = {name: int(size) / recipients for name, size in (line.split("|") for line in rows.splitlines())}
    indexes = postgres.query("SELECT pg_indexes_size('recipient')", DATABASE)
    return {
        **{name: round(size, 1) for name, size in sizes.items() if size >= 1},
        "of which indexes of recipient": round(int(indexes) / recipients, 1),
    }


def report(found: list[Footprint]) -> None:
    console = Console()
    for one in found:
        table = Table(title=f"{one.recipients:,} recipients, 10 KB, {one.senders} sender(s)")
        table.add_column("per email")
        table.add_column("", justify="right")
        table.add_row("emails/s", f"{one.emails_per_second:,.0f}")
        for name, value in one.cpu_microseconds.items():
            table.add_row(f"CPU us, {name}", f"{value:.0f}")
        for name, value in one.ledger_bytes.items():
            table.add_row(f"ledger bytes, {name}", f"{value:.0f}")
        for name, value in one.wal_bytes.items():
            table.add_row(f"WAL bytes, {name}", f"{value:.0f}")
        table.add_row("broker messages", f"{one.broker_messages:.4f}")
        show_table(table, console)
    console.print(f"Written: {write_report('footprint', runs=[asdict(one) for one in found])}")


if __name__ == "__main__":
    main()

"""Reports a second over LMTP into the ledger: bounces of one campaign, each about another recipient.

Starts `python -m services.feedback` on a fresh SQLite and PostgreSQL. Prints a table, with the service's CPU for each
report (its start included) and the load of the machine. Writes JSON to var/bench/feedback.json.
"""

import argparse
import asyncio
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rich.table import Table
from sqlalchemy import func, select
from sqlmodel import col

from bench.campaign import ledger_url
from bench.reports import write_report
from bench.tables import show_table
from cli.local.ports import free_ports
from shared.ledger import migrate
from shared.ledger.database import Ledger
from shared.ledger.models import Batch
from tests.support.lmtp import BOUNCES, Wire, a_bounce, greeted, sent_campaign

LEAST = 300.0
SECRET = "a secret of a bench and of no installation"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reports", type=int, default=3000)
    parser.add_argument("--connections", type=int, default=20, help="as many as Postfix opens to one destination")
    options = parser.parse_args()
    measured: dict[str, dict[str, float]] = {}
    table = Table("Ledger", "reports/s", f"at least {LEAST:.0f}", "CPU of the service, ms per report", "load")
    for name in ("sqlite", "postgresql"):
        with tempfile.TemporaryDirectory(prefix="vashsender-bench-") as folder, ledger_url(name, Path(folder)) as url:
            migrate.upgrade(url)
            measured[name] = asyncio.run(measure(url, Path(folder), options.reports, options.connections))
        rate, cpu = measured[name]["reports_per_second"], measured[name]["cpu_milliseconds"]
        load = f"{os.getloadavg()[0]:.1f}"
        table.add_row(name, f"{rate:.0f}", "yes" if rate >= LEAST else "NO", f"{cpu:.2f}", load)
    show_table(table)
    write_report("feedback", **measured)


async def measure(url: str, folder: Path, reports: int, connections: int) -> dict[str, float]:
    """Reports a second, each with its 250 and found in the ledger afterwards, and the CPU of the service."""
    ledger = Ledger(url, pool_size=1)
    tokens = await sent_campaign(ledger, reports, SECRET.encode())
    http, lmtp = free_ports(2)
    settings = {
        "DATABASE_URL": url.replace("+asyncpg", "").replace("+aiosqlite", ""),
        "AMQP_URL": "amqp://127.0.0.1:1/",
        "UNSUBSCRIBE_KEY": SECRET,
        "LMTP_PORT": str(lmtp),
        "HTTP_PORT": str(http),
        "VAR_DIR": str(folder),
        "LOG_FILE": str(folder / "feedback.log"),
    }
    environment = os.environ | {f"VASHSENDER_{name}": value for name, value in settings.items()}
    service = subprocess.Popen([sys.executable, "-m", "services.feedback"], env=environment)  # noqa: ASYNC220 - once
    try:
        clients = [await greeted(lmtp) for _ in range(connections)]
        waiting = iter(tokens)
        before = time.perf_counter()
        await asyncio.gather(*(_send(client, waiting) for client in clients))
        took = time.perf_counter() - before
        async with ledger.read() as connection:
            assert await connection.scalar(select(func.sum(col(Batch.bounced)))) == reports
    finally:
        earlier = _cpu_of_children()
        service.terminate()
        service.wait()
        await ledger.close()
    milliseconds = (_cpu_of_children() - earlier) * 1000
    return {"reports_per_second": reports / took, "cpu_milliseconds": milliseconds / reports}


def _cpu_of_children() -> float:
    """Seconds of CPU that the processes have taken that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


async def _send(client: Wire, tokens: Iterator[str]) -> None:
    for token in tokens:
        answer = await client.mail(f"bounce+{token}@{BOUNCES}", a_bounce(token))
        assert answer.startswith("250"), answer
    await client.close()


if __name__ == "__main__":
    main()

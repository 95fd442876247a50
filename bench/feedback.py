"""Reports a second over LMTP into the ledger: bounces of one campaign, each about another recipient.

Starts `python -m services.feedback` on a fresh SQLite and PostgreSQL. Prints a table, writes JSON to
var/bench/feedback.json.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from rich.console import Console
from rich.table import Table
from sqlalchemy import func, insert, select, update
from sqlmodel import col

from bench.campaign import ledger_url
from cli.local.ports import free_ports
from shared.email_tokens import TokenMaker
from shared.ledger import domains, migrate
from shared.ledger.database import Ledger
from shared.ledger.models import DEFAULT_PROJECT, Batch, Recipient
from tests.support.feedback_corpus import TOKEN, dsn, group
from tests.support.ledger import add_campaign

REPORT = Path("var/bench/feedback.json")
LEAST = 300.0
SECRET = "a secret of a bench and of no installation"
BOUNCES = "bounces.example.com"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reports", type=int, default=3000)
    parser.add_argument("--connections", type=int, default=8)
    options = parser.parse_args()
    console, measured = Console(), {}
    table = Table("Ledger", "reports/s", f"at least {LEAST:.0f}")
    for name in ("sqlite", "postgresql"):
        with tempfile.TemporaryDirectory(prefix="vashsender-bench-") as folder, ledger_url(name, Path(folder)) as url:
            migrate.upgrade(url)
            measured[name] = asyncio.run(measure(url, Path(folder), options.reports, options.connections))
        table.add_row(name, f"{measured[name]:.0f}", "yes" if measured[name] >= LEAST else "NO")
    console.print(table)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps(measured, indent=2) + "\n")


async def measure(url: str, folder: Path, reports: int, connections: int) -> float:
    """Reports a second, each with its 250 and found in the ledger afterwards."""
    ledger = Ledger(url, pool_size=1)
    tokens = await _prepare(ledger, reports)
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
        clients = [await _connected(lmtp) for _ in range(connections)]
        waiting = iter(tokens)
        before = time.perf_counter()
        await asyncio.gather(*(_send(*client, waiting) for client in clients))
        took = time.perf_counter() - before
        async with ledger.read() as connection:
            assert await connection.scalar(select(func.sum(col(Batch.bounced)))) == reports
    finally:
        service.terminate()
        service.wait()
        await ledger.close()
    return reports / took


async def _prepare(ledger: Ledger, recipients: int) -> list[str]:
    """A campaign that was sent; returns the tokens of its emails."""
    campaign: UUID = await add_campaign(ledger, recipients)
    async with ledger.write() as connection:
        ids = select(col(Recipient.id)).where(col(Recipient.campaign_id) == campaign).order_by(col(Recipient.id))
        found = list((await connection.execute(ids)).scalars())
        await connection.execute(update(Recipient).where(col(Recipient.campaign_id) == campaign).values(status="sent"))
        for start in range(0, len(found), 500):
            part = found[start : start + 500]
            batch = {"first_id": part[0], "last_id": part[-1], "size": len(part), "sent": len(part), "state": "done"}
            await connection.execute(insert(Batch).values(campaign_id=campaign, due_at=0.0, **batch))
        domain = await domains.add(connection, "example.com", DEFAULT_PROJECT, "operator")
        await domains.set_bounce_domain(connection, domain, BOUNCES)
    make = TokenMaker(SECRET.encode(), campaign).make
    return [make(number).mail for number in found]


async def _connected(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    async with asyncio.timeout(60):
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                break
            except ConnectionRefusedError:
                await asyncio.sleep(0.05)
    await reader.readline()
    writer.write(b"LHLO bench\r\n")
    while (await reader.readline())[3:4] == b"-":
        pass
    return reader, writer


async def _send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, tokens: Iterator[str]) -> None:
    report = dsn("MAILER-DAEMON@mx", "Undelivered", "x", group("failed", "5.1.1", "550 5.1.1 No", final=""))
    body = report.replace(b"\n", b"\r\n")
    for token in tokens:
        for said in (b"MAIL FROM:<>", f"RCPT TO:<bounce+{token}@{BOUNCES}>".encode(), b"DATA"):
            writer.write(said + b"\r\n")
            await reader.readline()
        writer.write(body.replace(TOKEN.encode(), token.encode()) + b"\r\n.\r\n")
        answer = await reader.readline()
        assert answer.startswith(b"250"), answer
    writer.write(b"QUIT\r\n")
    writer.close()


if __name__ == "__main__":
    main()

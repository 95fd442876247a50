"""CPU of each service while there is nothing to do: with no campaign, and with many that are paused.

The whole system on this machine, as in bench.campaign. No email is sent and no page is open. Prints a table, writes
JSON, and fails if a process uses more than its share of a core.
"""

import argparse
import asyncio
import sys
from pathlib import Path

from rich.table import Table

from bench.campaign import cpu_seconds, folder, ledger_url, private_broker
from bench.reports import write_report
from bench.tables import show_table
from cli.local.broker import PrivateBroker
from cli.local.broker_files import ADMIN, SERVICES
from cli.local.ports import free_port
from shared.ledger import migrate
from shared.ledger.database import Ledger
from tests.support.ledger import add_campaign
from tests.support.smtp.sink import smtp_sink
from tests.support.system import installation

MOST_PERCENT = 0.5
SETTLE_SECONDS = 15.0
"""The first laps and sweeps, which a process runs once after its start, are not part of it."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long each measurement takes")
    parser.add_argument("--paused", type=int, nargs="+", default=[0, 1000], help="campaigns that are paused")
    parser.add_argument("--databases", nargs="+", default=["sqlite", "postgresql"])
    options = parser.parse_args()
    rows: list[dict[str, object]] = []
    with private_broker() as broker, smtp_sink() as port:
        relay = f"smtp://127.0.0.1:{port}?tls=none"
        for database in options.databases:
            for paused in options.paused:
                with folder() as work, ledger_url(database, work) as url:
                    migrate.upgrade(url)
                    percent = asyncio.run(_measure(work, url, broker, relay, paused, options.seconds))
                rows.append({"ledger": database, "paused": paused, **percent})
    _show(rows)
    write_report("idle", rows=rows)
    most = max(value for row in rows for value in row.values() if isinstance(value, float))
    return 0 if most <= MOST_PERCENT else 1


async def _measure(
    work: Path, url: str, broker: PrivateBroker, relay: str, paused: int, seconds: float
) -> dict[str, float]:
    """Percent of a core by process."""
    ledger = Ledger(url)
    try:
        for _ in range(paused):
            await add_campaign(ledger, 2, status="paused", started_at=0.0)
    finally:
        await ledger.close()
    async with installation(
        work, url, broker.amqp_url(ADMIN), broker.amqp_url(SERVICES), relay=None, relays=relay
    ) as system:
        await system.start(senders=1)
        others = [system.launch("webhooks"), system.launch("feedback", lmtp_port=str(free_port()))]
        await asyncio.gather(*(process.wait_ready() for process in others))
        await asyncio.sleep(SETTLE_SECONDS)
        before = cpu_seconds(system)
        await asyncio.sleep(seconds)
        after = cpu_seconds(system)
    return {name: round(100 * (after[name] - before[name]) / seconds, 2) for name in after}


def _show(rows: list[dict[str, object]]) -> None:
    table = Table(title=f"percent of a core while idle (at most {MOST_PERCENT})")
    for heading in rows[0]:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*map(str, row.values()))
    show_table(table)


if __name__ == "__main__":
    sys.exit(main())

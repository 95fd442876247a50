"""Speed and memory of exports: rows per second over HTTP, by format, and the API's memory meanwhile.

`python -m bench.export [--recipients 1000000] [--runs 3]`: a durable PostgreSQL, one API process, one client that reads
and forgets. Half of the recipients have results of the usual length, a third have about 200 bytes of fields. Prints a
table, writes JSON to var/bench/.
"""

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psutil
from rich.console import Console
from rich.table import Table
from sqlalchemy import text

from bench.campaign import folder, ledger_url, private_broker
from bench.page import FILL_SECONDS, api_of, filled, new_key
from bench.reports import write_report
from bench.tables import show_table
from cli.local.broker_files import ADMIN, SERVICES
from shared import topology
from shared.ledger import migrate
from shared.ledger.database import Ledger

SAMPLE_SECONDS = 0.1
MEGABYTE = 1_000_000
FORMS = ("format=csv", "format=csv&gzip=true", "format=ndjson", "format=ndjson&gzip=true")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipients", type=int, default=1_000_000, help="of the campaign that is exported")
    parser.add_argument("--runs", type=int, default=3, help="of each form, in turn; the median counts")
    options = parser.parse_args()
    with private_broker() as broker, folder() as work, ledger_url("postgresql", work) as url:
        migrate.upgrade(url)
        asyncio.run(topology.declare(broker.amqp_url(ADMIN)))
        found = asyncio.run(measure(work, url, broker.amqp_url(SERVICES), options))
    report(Console(), found, options)


async def measure(
    work: Path, url: str, amqp_url: str, options: argparse.Namespace
) -> Mapping[str, Sequence[Mapping[str, float]]]:
    """The downloads by form."""
    ledger = Ledger(url, pool_size=1, transaction_seconds=FILL_SECONDS)
    try:
        campaign = await filled(ledger, 2, 2 * options.recipients)
        await _give_data(ledger, campaign)
        key = await new_key(ledger)
    finally:
        await ledger.close()
    found: dict[str, list[Mapping[str, float]]] = {form: [] for form in FORMS}
    async with api_of(work, url, amqp_url) as (api, client):
        client.headers["Authorization"] = f"Bearer {key}"
        for _ in range(options.runs):
            for form in FORMS:
                path = f"/v1/campaigns/{campaign}/recipients/export?{form}"
                found[form].append(await download(client, path, api.pid, options.recipients))
                print(form, found[form][-1], flush=True)
    return found


async def _give_data(ledger: Ledger, campaign: UUID) -> None:
    """A third of the recipients have fields of about 200 bytes, and half a result as Postfix gives it."""
    async with ledger.write() as connection:
        await connection.execute(
            text(
                "UPDATE recipient SET smtp_code = 250, enhanced_code = '2.0.0', sent_at = :now + id / 1000.0,"
                " reply = '2.0.0 Ok: queued as 4XyZ' || id, queue_id = '4XyZ' || id"
                " WHERE campaign_id = :campaign AND status = 'sent'"
            ),
            {"now": time.time(), "campaign": campaign},
        )
        await connection.execute(
            text("UPDATE recipient SET data = :data WHERE campaign_id = :campaign AND id % 3 = 0"),
            {"data": json.dumps({"name": "Person", "city": "x" * 60, "note": "y" * 90}), "campaign": campaign},
        )
    async with ledger.autocommit() as connection:
        await connection.execute(text("VACUUM ANALYZE recipient"))


async def download(client: httpx.AsyncClient, path: str, pid: int, rows: int) -> Mapping[str, float]:
    """Rows and bytes a second, and by how much the memory of the API grew meanwhile."""
    process = psutil.Process(pid)
    before = peak = process.memory_info().rss
    cpu, began, size = sum(process.cpu_times()[:2]), time.monotonic(), 0
    sampled = began
    async with client.stream("GET", path) as response:
        assert response.status_code == 200, response.status_code
        async for part in response.aiter_raw():
            size += len(part)
            if time.monotonic() - sampled > SAMPLE_SECONDS:
                sampled = time.monotonic()
                peak = max(peak, process.memory_info().rss)
    seconds = time.monotonic() - began
    return {
        "rows_per_second": round(rows / seconds),
        "megabytes_per_second": round(size / seconds / MEGABYTE, 1),
        "cpu_microseconds_per_row": round((sum(process.cpu_times()[:2]) - cpu) / rows * 1e6, 2),
        "megabytes_before": round(before / MEGABYTE, 1),
        "megabytes_more": round((peak - before) / MEGABYTE, 1),
    }


def report(console: Console, found: Mapping[str, Sequence[Mapping[str, float]]], options: argparse.Namespace) -> None:
    table = Table(title=f"Export of {options.recipients:,} recipients, median of {options.runs}")
    columns = list(next(iter(found.values()))[0])
    for heading in ("", *columns):
        table.add_column(heading.replace("_", " "), justify="left" if not heading else "right")
    for form, downloads in found.items():
        medians: list[Any] = [statistics.median(one[column] for one in downloads) for column in columns]
        table.add_row(form, *(f"{number:,g}" for number in medians))
    show_table(table, console)
    console.print(f"All runs: {write_report('export', options=vars(options), downloads=found)}")


if __name__ == "__main__":
    main()

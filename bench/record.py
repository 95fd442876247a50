"""The cost of recording: microseconds per result of a group commit, by group size, on durable ledgers."""

import argparse
import asyncio
import time

from rich.table import Table

from bench.campaign import folder, ledger_url
from bench.reports import write_report
from bench.tables import show_table
from services.sender.db import claims
from services.sender.db.record import Group, record
from services.sender.results import Result
from shared.ledger import migrate
from shared.ledger.database import Ledger
from shared.ledger.models import DEFAULT_PROJECT
from tests.support.seeds import seed_campaign

GROUPS = (1, 8, 32, 64)
LEASE_SECONDS = 15.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=int, default=4000, help="results recorded per group size and ledger")
    options = parser.parse_args()
    rows = []
    for name in ("sqlite", "postgresql"):
        with folder() as work, ledger_url(name, work) as url:
            migrate.upgrade(url)
            for size in GROUPS:
                wall, cpu = asyncio.run(measure(url, size, options.results if size > 1 else options.results // 8))
                rows.append({"ledger": name, "group": size, "wall_microseconds": wall, "cpu_microseconds": cpu})
    table = Table(title="Microseconds per recorded result")
    for heading in ("ledger", "group", "wall", "CPU of the sender"):
        table.add_column(heading, justify="right")
    for row in rows:
        cells = (row["ledger"], row["group"], f"{row['wall_microseconds']:.0f}", f"{row['cpu_microseconds']:.0f}")
        table.add_row(*map(str, cells))
    show_table(table)
    write_report("record", rows=rows)


def accepted(recipient_id: int, email: str) -> Result:
    """What is recorded of an email that was sent at the first attempt."""
    return Result(
        recipient_id, email, "pending", 0, "sent", 1, code=250, enhanced="2.0.0",
        reply="2.0.0 Ok: queued as 4bXk2d0zWcz1", relay="relay.example.test", queue_id="4bXk2d0zWcz1",
    )  # fmt: skip


async def measure(url: str, size: int, results: int) -> tuple[float, float]:
    """Wall and CPU microseconds per result, in groups of `size`."""
    ledger = Ledger(url, pool_size=2)
    try:
        seeded = await seed_campaign(ledger, results, batch_size=results)
        claim = await claims.claim(ledger, seeded.batch_ids[0], 1, "bench", LEASE_SECONDS)
        assert claim is not None
        groups = []
        for start in range(0, results, size):
            ids = seeded.recipient_ids[start : start + size]
            done = [accepted(recipient_id, f"{recipient_id}@example.test") for recipient_id in ids]
            groups.append(Group(claim.batch_id, claim.generation, claim.campaign_id, DEFAULT_PROJECT, done))
        wall, cpu = time.perf_counter(), time.process_time()
        for group in groups:
            recorded = await record(ledger, [group], LEASE_SECONDS)
            assert not recorded[claim.batch_id].lost
        return (time.perf_counter() - wall) / results * 1e6, (time.process_time() - cpu) / results * 1e6
    finally:
        await ledger.close()


if __name__ == "__main__":
    main()

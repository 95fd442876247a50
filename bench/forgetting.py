"""A campaign's pace with and without a deletion of old results beside it, on one machine.

`python -m bench.forgetting [--rows 1000000] [--recipients 20000] [--runs 3]`: PostgreSQL (durable), a private broker,
all services, smtp-sink as the relay. The ledger is filled with a campaign of `rows` recipients that ended 40 days ago.
Then campaigns run in turn, one alone, one while rows of the old campaign are deleted as the API deletes them. Prints
the ratio of the medians and the rows deleted a second, also without a campaign beside, and writes JSON to var/bench/.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import text

from bench.campaign import HTML, TEXT, folder, ledger_url, private_broker
from bench.reports import write_report
from cli.local.broker import PrivateBroker
from cli.local.broker_files import ADMIN, SERVICES
from shared.ledger import migrate
from shared.ledger.database import POSTGRESQL_NOW, Ledger
from shared.ledger.forgetting.deletion import Deleted
from shared.ledger.forgetting.run import Forgetter, Rules
from shared.ledger.models import DEFAULT_PROJECT
from shared.signing import Use, derived_key
from tests.support.ended import id_made
from tests.support.smtp.sink import smtp_sink
from tests.support.system import System, installation

DAYS_AGO = 40
BATCH_ROWS = 500
LEAST = 0.9
IDLE_SECONDS = 5.0


class Deletion:
    """Deletes old results, and counts the rows."""

    def __init__(self, ledger: Ledger) -> None:
        roots = [derived_key(b"a key of the benchmark, long enough", Use.HASHED)]
        rules = Rules(default_days=30, steady_seconds=0.0, settled_seconds=0.0)
        self._forgetter = Forgetter(ledger, "bench", roots, rules, self._count)
        self.rows = 0

    def _count(self, deleted: Deleted) -> None:
        self.rows += deleted.rows

    @asynccontextmanager
    async def under_way(self) -> AsyncIterator[None]:
        """Deletes until the end of the block. It must not come to its end before."""
        task = asyncio.create_task(self._forgetter.run())
        try:
            yield
            if task.done():
                raise SystemExit("the deletion was over too early: give it more --rows")
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def fill(ledger: Ledger, rows: int) -> None:
    """A campaign that ended long ago: 3 % of its recipients failed."""
    campaign_id = id_made(DAYS_AGO + 1)
    values: dict[str, Any] = {"id": campaign_id, "project": DEFAULT_PROJECT, "rows": rows, "batch": BATCH_ROWS}
    ended = f"{POSTGRESQL_NOW} - {DAYS_AGO} * 86400.0"
    statements = (
        f"""INSERT INTO campaign (id, project_id, name, from_email, envelope_from, content, status, delivery, total,
            cursor, created_at, started_at, finished_at)
        VALUES (:id, :project, 'old', 'a@example.test', 'a@example.test', '{{"subject": "old"}}', 'finished',
            'at_least_once', CAST(:rows AS int), CAST(:rows AS bigint), {ended} - 3600, {ended} - 3600, {ended})""",
        """INSERT INTO recipient (campaign_id, email, email_key, data, status, attempts, smtp_code, reply, relay,
            queue_id, sent_at)
        SELECT :id, 'person-' || n || '@example-' || n % 1000 || '.test', 'person-' || n || '@example-' || n % 1000
            || '.test', '{"first_name": "Ann", "city": "Springfield"}', CASE WHEN n % 33 = 0 THEN 'failed' ELSE 'sent'
            END, 1, CASE WHEN n % 33 = 0 THEN 550 ELSE 250 END, '2.0.0 Ok: queued as 4bXyZ' || n, 'mx.example.test', 'Q'
            || n, 1e9 FROM generate_series(1, CAST(:rows AS bigint)) AS n""",
        """INSERT INTO batch (campaign_id, first_id, last_id, size, state, due_at, sent)
        SELECT :id, min(id), max(id), count(*), 'done', 0, count(*) FROM recipient WHERE campaign_id = :id
        GROUP BY (id - 1) / CAST(:batch AS bigint)""",
    )
    for statement in statements:
        async with ledger.write() as connection:
            wanted = {name: value for name, value in values.items() if f":{name}" in statement}
            await connection.execute(text(statement), wanted)
    async with ledger.engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.exec_driver_sql("VACUUM ANALYZE")


async def pace(system: System, recipients: int) -> float:
    """Emails a second of one campaign, from `send` to the last row recorded."""
    campaign = await system.create(recipients, html=HTML, text=TEXT)
    began = time.monotonic()
    await system.send(campaign)
    await system.wait_until(campaign, lambda answer: answer["counts"]["sent"] == recipients, 300)
    seconds = time.monotonic() - began
    await system.wait_closed(campaign)
    return recipients / seconds


async def measure(work: Path, url: str, broker: PrivateBroker, relay: str, options: argparse.Namespace) -> Any:
    """Emails a second alone and beside, and rows deleted a second beside and without a campaign."""
    ledger = Ledger(url, pool_size=2, transaction_seconds=600.0)
    alone: list[float] = []
    beside: list[float] = []
    try:
        began = time.monotonic()
        await fill(ledger, options.rows)
        print(f"{options.rows} rows filled in {time.monotonic() - began:.0f} s", flush=True)
        deletion = Deletion(ledger)
        amqp = (broker.amqp_url(ADMIN), broker.amqp_url(SERVICES))
        async with installation(work, url, *amqp, relay=None, relays=relay) as system:
            await system.start(options.senders)
            await pace(system, options.recipients)  # warm
            busy = 0.0
            for _ in range(options.runs):
                alone.append(await pace(system, options.recipients))
                since = time.monotonic()
                async with deletion.under_way():
                    beside.append(await pace(system, options.recipients))
                busy += time.monotonic() - since
                print(f"alone {alone[-1]:.0f} emails/s, beside {beside[-1]:.0f}, {deletion.rows} rows gone", flush=True)
            rows_busy = deletion.rows
            async with deletion.under_way():
                await asyncio.sleep(IDLE_SECONDS)
    finally:
        await ledger.close()
    return {
        "alone": alone,
        "beside": beside,
        "rows_per_second_beside": rows_busy / busy,
        "rows_per_second_idle": (deletion.rows - rows_busy) / IDLE_SECONDS,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--recipients", type=int, default=20_000)
    parser.add_argument("--senders", type=int, default=1)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    with private_broker() as broker, smtp_sink() as port, folder() as work, ledger_url("postgresql", work) as url:
        migrate.upgrade(url)
        found = asyncio.run(measure(work, url, broker, f"smtp://127.0.0.1:{port}?tls=none", options))
    ratio = statistics.median(found["beside"]) / statistics.median(found["alone"])
    print(
        f"with a deletion beside: {ratio:.0%} of the pace (at least {LEAST:.0%}:"
        f" {'reached' if ratio >= LEAST else 'missed'}); {found['rows_per_second_beside']:.0f} rows deleted a second,"
        f" {found['rows_per_second_idle']:.0f} without a campaign"
    )
    print(f"All runs: {write_report('forgetting', options=vars(options), ratio=ratio, **found)}")


if __name__ == "__main__":
    main()

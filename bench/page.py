"""Latency of each page with 10,000 campaigns and 1,000,000 recipients on PostgreSQL.

The real API as a process, a private broker, a private PostgreSQL. One campaign holds half of the recipients, and one in
a hundred of them has failed. Each page is requested repeatedly over one connection. The time is measured from the
request to the last byte of the answer, so the server's time is a little less. Prints a table, writes JSON under
var/bench/; exit code 1 if the 95th percentile of a page exceeds the limit.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import httpx
from rich.console import Console
from rich.table import Table
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from uuid6 import uuid7

from bench.campaign import folder, ledger_url, private_broker
from bench.reports import write_report
from bench.tables import show_table
from cli.local.broker_files import ADMIN, SERVICES
from cli.local.ports import free_port
from shared import topology
from shared.content import CampaignContent
from shared.ledger import history, migrate, rollups
from shared.ledger.database import Ledger, clock
from shared.ledger.history import Point
from shared.ledger.keys import create_key
from shared.ledger.models import DEFAULT_PROJECT
from tests.support.processes import ServiceProcess
from tests.support.visitor import Visitor

LIMIT_MILLISECONDS = 200.0
BATCH = 500
SECRET = "a key that signs only in this measurement"
SUPPRESSIONS = 100_000
FILL_SECONDS = 7200.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--campaigns", type=int, default=10_000)
    parser.add_argument("--recipients", type=int, default=1_000_000)
    parser.add_argument("--requests", type=int, default=100, help="per page")
    options = parser.parse_args()
    console = Console()
    with private_broker() as broker, folder() as work, ledger_url("postgresql", work) as url:
        migrate.upgrade(url)
        asyncio.run(topology.declare(broker.amqp_url(ADMIN)))
        times = asyncio.run(measure(work, url, broker.amqp_url(SERVICES), options, console))
    if report(console, times, options):
        sys.exit(1)


async def measure(
    work: Path, url: str, amqp_url: str, options: argparse.Namespace, console: Console
) -> Mapping[str, list[float]]:
    """Milliseconds of each answer, by page."""
    began = time.monotonic()
    ledger = Ledger(url, pool_size=1, transaction_seconds=FILL_SECONDS)
    try:
        campaign = await filled(ledger, options.campaigns, options.recipients)
        console.print(f"filled in {time.monotonic() - began:.0f} s", style="dim")
        key = await new_key(ledger)
    finally:
        await ledger.close()
    return await ask_all(work, url, amqp_url, key, campaign, options.requests)


async def new_key(ledger: Ledger) -> str:
    async with ledger.write() as connection:
        return await create_key(connection, "bench")


async def ask_all(
    work: Path, url: str, amqp_url: str, key: str, campaign: UUID, requests: int
) -> Mapping[str, list[float]]:
    """Starts the API, signs in and requests each page so often. Returns milliseconds."""
    async with api_of(work, url, amqp_url) as (_, client):
        await Visitor(client).sign_in(key)
        return {name: await ask(client, path, requests) for name, path in pages(campaign).items()}


@asynccontextmanager
async def api_of(work: Path, url: str, amqp_url: str) -> AsyncIterator[tuple[ServiceProcess, httpx.AsyncClient]]:
    """A process of the API, and a client of it."""
    settings = {"DATABASE_URL": url, "AMQP_URL": amqp_url, "SECRET_KEY": SECRET, "VAR_DIR": str(work)}
    api = ServiceProcess("api", {f"VASHSENDER_{name}": value for name, value in settings.items()}, free_port(), work)
    api.launch()
    try:
        await api.wait_ready()
        async with httpx.AsyncClient(base_url=api.http_url, timeout=60, trust_env=False) as client:
            yield api, client
    finally:
        api.kill()


def pages(campaign: UUID) -> Mapping[str, str]:
    """Pages of the large campaign, and lists from their first and a later page."""
    middle = UUID(int=campaign.int - (1 << 80))
    base = f"/campaigns/{campaign}"
    return {
        "campaigns": "/",
        "campaigns, deep": f"/?cursor={middle}",
        "campaigns, closed": "/?show=closed",
        "campaigns, under way": "/?show=moving",
        "campaign": base,
        "failures": f"{base}/failures",
        "recipients": f"{base}/recipients",
        "recipients, failed": f"{base}/recipients?status=failed",
        "recipients, waiting": f"{base}/recipients?status=pending",
        "message": f"{base}/message",
        "services": "/services",
        "suppressions": "/suppressions",
        "suppressions, find": "/suppressions?email=s77@example.com",
        "new campaign": "/campaigns/new",
    }


async def ask(client: httpx.AsyncClient, path: str, requests: int) -> list[float]:
    times = []
    for _ in range(requests):
        began = time.perf_counter()
        answer = await client.get(path)
        times.append((time.perf_counter() - began) * 1000)
        assert answer.status_code == 200, f"{path}: {answer.status_code} {answer.text}"
    return times


async def filled(ledger: Ledger, campaigns: int, recipients: int) -> UUID:
    """Inserts closed campaigns, and a running one with half of all recipients, and returns the id of the latter. The
    indexes of recipients are made afterwards, as a restored backup makes them, in a fraction of the time."""
    async with ledger.write() as connection:
        for setting in _FOR_FILLING:
            await connection.execute(text(f"SET LOCAL {setting}"))
        indexes = (await connection.execute(text(_INDEXES))).scalars().all()
        await connection.execute(text("ALTER TABLE recipient DROP CONSTRAINT recipient_once"))
        await connection.execute(text("DROP INDEX recipient_by_campaign"))
        newest = await _fill(connection, campaigns, recipients)
        for definition in indexes:
            await connection.execute(text(definition))
        await connection.execute(
            text("ALTER TABLE recipient ADD CONSTRAINT recipient_once UNIQUE USING INDEX recipient_once")
        )
    while await rollups.roll_up(ledger, newest):  # as the dispatcher does meanwhile
        pass
    async with ledger.autocommit() as connection:
        await connection.execute(text("VACUUM ANALYZE"))
    return newest


async def _fill(connection: AsyncConnection, campaigns: int, recipients: int) -> UUID:
    now = await clock(connection)
    large, newest = recipients // 2, UUID(int=uuid7().int)
    small = (recipients - large) // max(campaigns - 1, 1)
    values = {
        "project": DEFAULT_PROJECT,
        "content": CampaignContent(subject="Hello", text="Hello.").model_dump_json(),
        "now": now,
        "newest": newest,
        "large": large,
        "small": small,
        "campaigns": campaigns,
        "batch": BATCH,
        "suppressions": SUPPRESSIONS,
    }
    await connection.execute(
        text(_SMALL_CAMPAIGNS),
        [{**values, "id": UUID(int=newest.int - (number << 70)), "n": number} for number in range(1, campaigns)],
    )
    for statement in (_LARGE_CAMPAIGN, _RECIPIENTS, _BATCHES, _CURSORS, _TIMELINE, _SUPPRESSIONS):
        await connection.execute(text(statement), values)
    await history.note(
        connection, newest, [Point(now - 600 + 5 * step, large // 2 * step // 120, step * 40) for step in range(120)]
    )
    return newest


# Whole tables are read, unlike by the services, and rows are known to be right.
_FOR_FILLING = (
    "enable_seqscan = on",
    "enable_hashjoin = on",
    "enable_mergejoin = on",
    "work_mem = '256MB'",
    "maintenance_work_mem = '1GB'",
    "session_replication_role = replica",
)
_INDEXES = "SELECT indexdef FROM pg_indexes WHERE indexname IN ('recipient_once', 'recipient_by_campaign')"
_CAMPAIGN = """
    INSERT INTO campaign (id, project_id, name, from_email, envelope_from, content, status, delivery, total,
        created_at, started_at, finished_at, deliver_by)
"""
_SMALL_CAMPAIGNS = f"""{_CAMPAIGN}
    VALUES (CAST(:id AS uuid), :project, 'Campaign ' || CAST(:n AS int), 'news@example.com', 'news@example.com',
        :content, 'finished', 'at_least_once', :small, :now - 86400, :now - 86300, :now - 86200, :now)
"""
_LARGE_CAMPAIGN = f"""{_CAMPAIGN}
    VALUES (:newest, :project, 'The large one', 'news@example.com', 'news@example.com', :content, 'sending',
        'at_least_once', :large, :now - 700, :now - 600, NULL, :now + 86400)
"""
# Of each hundred one failed and the others are sent. The second half of the large campaign is in no batch yet.
_RECIPIENTS = """
    INSERT INTO recipient (campaign_id, email, email_key, status, attempts, smtp_code, enhanced_code, reply, relay)
    SELECT c.id, 'r' || n || '@example.com', 'r' || n || '@example.com', s.status, 1,
        CASE s.status WHEN 'failed' THEN 550 WHEN 'sent' THEN 250 END,
        CASE s.status WHEN 'failed' THEN '5.' || (1 + n % 700 / 100) || '.1' END,
        CASE s.status WHEN 'failed' THEN 'r' || n || '@example.com refused in queue Q' || n || 'X' END, 'mx.example:25'
    FROM campaign AS c, generate_series(1, c.total) AS n,
        LATERAL (SELECT CASE WHEN c.id = :newest AND n > c.total / 2 THEN 'pending'
            WHEN n % 100 = 0 THEN 'failed' ELSE 'sent' END AS status) AS s
    ORDER BY c.id, n
"""
_BATCHES = """
    INSERT INTO batch (campaign_id, first_id, last_id, size, state, due_at, sent, failed)
    SELECT campaign_id, min(id), max(id), count(*), 'done', 0, count(*) FILTER (WHERE status = 'sent'),
        count(*) FILTER (WHERE status = 'failed')
    FROM (SELECT *, row_number() OVER (PARTITION BY campaign_id ORDER BY id) AS place FROM recipient
        WHERE status <> 'pending') AS numbered
    GROUP BY campaign_id, (place - 1) / :batch ORDER BY min(id)
"""
_CURSORS = """
    UPDATE campaign SET cursor = reached.last_id
    FROM (SELECT campaign_id, max(last_id) AS last_id FROM batch GROUP BY campaign_id) AS reached
    WHERE id = reached.campaign_id
"""
_TIMELINE = """
    INSERT INTO timeline (campaign_id, at, last_at, kind, text)
    SELECT id, :now - 700 + n, :now - 700 + n, 'kind-' || n, 'Something happened to it, for the ' || n || '. time.'
    FROM campaign, generate_series(1, CASE WHEN id = :newest THEN 1000 ELSE 5 END) AS n
"""
_SUPPRESSIONS = """
    INSERT INTO suppression (project_id, email, email_key, reason, created_at)
    SELECT :project, 's' || n || '@example.com', 's' || n || '@example.com', 'bounced', :now
    FROM generate_series(1, :suppressions) AS n
"""


def report(console: Console, times: Mapping[str, list[float]], options: argparse.Namespace) -> bool:
    """Prints the table and writes the file. True if a page is too slow."""
    table = Table(
        title=f"{options.campaigns:,} campaigns, {options.recipients:,} recipients, {options.requests} requests a page"
    )
    for heading in ("page", "p50 ms", "p95 ms", "slowest ms"):
        table.add_column(heading, justify="left" if heading == "page" else "right")
    rows = {}
    for name, found in times.items():
        found = sorted(found)
        p50, p95 = (found[min(len(found) - 1, int(len(found) * share))] for share in (0.5, 0.95))
        rows[name] = {"p50": round(p50, 1), "p95": round(p95, 1), "slowest": round(found[-1], 1)}
        style = "red" if p95 > LIMIT_MILLISECONDS else ""
        table.add_row(name, f"{p50:.1f}", f"{p95:.1f}", f"{found[-1]:.1f}", style=style)
    show_table(table, console)
    path = write_report("page", options=vars(options), milliseconds=rows)
    console.print(f"Written: {path}; the limit is {LIMIT_MILLISECONDS:.0f} ms at p95")
    return any(row["p95"] > LIMIT_MILLISECONDS for row in rows.values())


if __name__ == "__main__":
    main()

"""An hour of campaigns, one behind the other: what PostgreSQL's tables, vacuums and time per email become.

`python -m bench.endurance [--minutes 60] [--recipients 100000] [--pace 2000] [--senders 2]`: a durable PostgreSQL, a
private broker, all services, smtp-sink as the relay. The pace is a limit of each campaign in emails a second; 0 is as
fast as possible. Prints one line for each five minutes: how many updates were heap-only, which rows are dead, how often
autovacuum came, bytes per recipient, and the CPU of an email. Writes JSON to var/bench/.
"""

import argparse
import asyncio
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table

from bench.campaign import HTML, TEXT, cpu_seconds, folder, private_broker, private_postgres
from bench.footprint import server_seconds
from bench.reports import write_report
from bench.tables import show_table
from cli.local.broker import PrivateBroker
from cli.local.broker_files import ADMIN, SERVICES
from cli.local.postgres import PrivatePostgres
from shared.ledger import migrate
from tests.support.smtp.sink import smtp_sink
from tests.support.system import System, installation

DATABASE = "bench"
SAMPLE_SECONDS = 300.0
LONGEST_SECONDS = 3600.0


@dataclass(frozen=True)
class Sample:
    """One part of the hour. Microseconds are CPU per email, dead rows and bytes those at its end; bytes count dead rows
    and free space. `hot`: the share of updates that touched no index."""

    minute: float
    emails_per_second: float
    own_microseconds: float
    servers_microseconds: float
    recipients: int
    hot: float
    dead_recipients: int
    dead_batches: int
    vacuums: int
    analyzes: int
    heap_bytes: float
    index_bytes: float


@dataclass(frozen=True)
class _Counts:
    """Totals since the start."""

    at: float
    own: float
    servers: float
    sent: int
    updates: int
    hot: int
    dead_recipients: int
    dead_batches: int
    vacuums: int
    analyzes: int
    heap: int
    indexes: int


_COUNTS = """
SELECT (SELECT coalesce(sum(sent), 0) FROM batch), r.n_tup_upd, r.n_tup_hot_upd, r.n_dead_tup, b.n_dead_tup,
    r.autovacuum_count + b.autovacuum_count, r.autoanalyze_count + b.autoanalyze_count, pg_table_size('recipient'),
    pg_indexes_size('recipient')
FROM pg_stat_user_tables r, pg_stat_user_tables b WHERE r.relname = 'recipient' AND b.relname = 'batch'
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--recipients", type=int, default=100_000, help="of each campaign")
    parser.add_argument("--pace", type=int, default=2_000, help="emails a second; 0: no limit")
    parser.add_argument("--senders", type=int, default=2)
    options = parser.parse_args()
    with private_broker() as broker, smtp_sink() as port, folder() as work, private_postgres(work) as postgres:
        url = postgres.create_database(DATABASE)
        migrate.upgrade(url)
        relay = f"smtp://127.0.0.1:{port}?tls=none"
        samples = asyncio.run(measure(work, url, postgres, broker, relay, options))
    report(samples, options)


async def measure(
    work: Path, url: str, postgres: PrivatePostgres, broker: PrivateBroker, relay: str, options: argparse.Namespace
) -> list[Sample]:
    """Campaigns until the time is over, and one sample each few minutes."""
    amqp = (broker.amqp_url(ADMIN), broker.amqp_url(SERVICES))
    async with installation(work, url, *amqp, relay=None, relays=relay) as system:
        await system.start(options.senders)
        campaigns = asyncio.create_task(_send_campaigns(system, options))
        try:
            return await _samples(system, postgres, broker, campaigns, options.minutes * 60)
        finally:
            campaigns.cancel()
            await asyncio.gather(campaigns, return_exceptions=True)


async def _send_campaigns(system: System, options: argparse.Namespace) -> None:
    limit = {"emails_per_second": options.pace} if options.pace else {}
    while True:
        campaign = await system.create(options.recipients, html=HTML, text=TEXT, **limit)
        await system.send(campaign)
        ended = await system.wait_closed(campaign, LONGEST_SECONDS)
        assert ended["counts"]["sent"] == options.recipients, ended


async def _samples(
    system: System, postgres: PrivatePostgres, broker: PrivateBroker, campaigns: asyncio.Task[None], seconds: float
) -> list[Sample]:
    samples = []
    began = before = _counted(system, postgres, broker)
    while (left := began.at + seconds - before.at) > 1:
        await asyncio.wait({campaigns}, timeout=min(SAMPLE_SECONDS, left))
        if campaigns.done():
            campaigns.result()  # it ends only with an error
        now = _counted(system, postgres, broker)
        samples.append(_sample(began, before, now))
        print(samples[-1], flush=True)
        before = now
    return samples


def _counted(system: System, postgres: PrivatePostgres, broker: PrivateBroker) -> _Counts:
    row = postgres.query(_COUNTS, DATABASE).split("|")
    servers = server_seconds(postgres.cluster) + server_seconds(broker.data_dir)
    return _Counts(time.monotonic(), sum(cpu_seconds(system).values()), servers, *map(int, row))


def _sample(began: _Counts, before: _Counts, now: _Counts) -> Sample:
    emails = max(1, now.sent - before.sent)
    return Sample(
        minute=round((now.at - began.at) / 60, 1),
        emails_per_second=round(emails / (now.at - before.at)),
        own_microseconds=round((now.own - before.own) / emails * 1e6, 1),
        servers_microseconds=round((now.servers - before.servers) / emails * 1e6, 1),
        recipients=now.sent,
        hot=round((now.hot - before.hot) / max(1, now.updates - before.updates), 3),
        dead_recipients=now.dead_recipients,
        dead_batches=now.dead_batches,
        vacuums=now.vacuums - began.vacuums,
        analyzes=now.analyzes - began.analyzes,
        heap_bytes=round(now.heap / max(1, now.sent), 1),
        index_bytes=round(now.indexes / max(1, now.sent), 1),
    )


def report(samples: list[Sample], options: argparse.Namespace) -> None:
    """A table, and JSON."""
    pace = f"at most {options.pace} emails/s" if options.pace else "no limit"
    table = Table(title=f"{options.minutes:.0f} minutes, {options.senders} sender(s), {pace}")
    for name in Sample.__dataclass_fields__:
        table.add_column(name.replace("_", " "), justify="right")
    for sample in samples:
        table.add_row(*(f"{value:,}" for value in asdict(sample).values()))
    show_table(table)
    print(f"Written: {write_report('endurance', options=vars(options), samples=[asdict(one) for one in samples])}")


if __name__ == "__main__":
    main()

"""What each step costs as the ledger grows, on a durable PostgreSQL with 1, 10 or 100 million recipients.

`python -m bench.at_size [--recipients 1000000 10000000] [--batches 100]`: half of the recipients are in one campaign
that is being sent, the others in campaigns of 1,000 that ended. A ledger of 100 million takes 50 GB.

Beside milliseconds it counts the blocks of 8 KB that PostgreSQL looked at. That number depends neither on the machine
nor on what else runs on it: where it stays the same, so does the plan, and a statement that reads a large table as a
whole shows at once. Prints tables, and writes JSON to var/bench/.
"""

import argparse
import asyncio
import logging
import statistics
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import structlog
from rich.console import Console
from rich.table import Table
from sqlalchemy import func, select, text

from bench.campaign import folder, ledger_url, private_broker
from bench.page import BATCH, FILL_SECONDS, ask_all, filled, new_key
from bench.record import accepted
from bench.reports import write_report
from bench.tables import show_table
from cli.local.broker_files import ADMIN, SERVICES
from services.dispatcher.deadline import Deadline
from services.dispatcher.proof import Proof, prove
from services.sender.db import claims
from services.sender.db.claims import Claim
from services.sender.db.record import Group, record
from services.sender.db.worklist import WorklistRow, read_worklist
from shared import topology
from shared.ledger import campaigns, migrate
from shared.ledger.database import Ledger
from shared.ledger.models import DEFAULT_PROJECT
from tests.support.services import DispatcherRig, register_sender

OF_ENDED = 1_000
"""Recipients of a campaign that ended."""
LEASE_SECONDS = 600.0
SLICE = 200
GROUP = 64
OWNER = "sender-1@bench"
SENDERS = 10
PROVEN = 20
"""Campaigns whose rows are compared, as before a campaign is closed."""


class Steps:
    """Milliseconds and blocks of each time that a step was taken."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.milliseconds: defaultdict[str, list[float]] = defaultdict(list)
        self.blocks: defaultdict[str, list[int]] = defaultdict(list)

    @asynccontextmanager
    async def step(self, name: str) -> AsyncIterator[None]:
        before, began = await self._looked_at(), time.perf_counter()
        yield
        self.milliseconds[name].append((time.perf_counter() - began) * 1000)
        self.blocks[name].append(await self._looked_at() - before)

    async def _looked_at(self) -> int:
        """Each connection reports its own counts when it is asked to: the two beside the pool, and its only one."""
        await self._ledger.read_alone(_REPORT, {})
        await self._ledger.write_alone(_REPORT, {})
        async with self._ledger.read() as connection:
            await connection.execute(_REPORT)
            return int(await connection.scalar(text(_BLOCKS)) or 0)


_REPORT = select(func.pg_stat_force_next_flush())
_BLOCKS = "SELECT blks_hit + blks_read FROM pg_stat_database WHERE datname = current_database()"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipients", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--batches", type=int, default=100, help="batches of 500 that are sent")
    parser.add_argument("--requests", type=int, default=20, help="per page")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    console = Console()
    found: dict[int, Mapping[str, Any]] = {}
    for number in options.recipients:
        console.print(f"{number:,} recipients ...", style="dim")
        with private_broker() as broker, folder() as work, ledger_url("postgresql", work) as url:
            migrate.upgrade(url)
            asyncio.run(topology.declare(broker.amqp_url(ADMIN)))
            found[number] = asyncio.run(_at(number, options, work, url, broker.amqp_url(SERVICES)))
        _write(found)
    for what, unit in (("steps", "ms"), ("blocks", "blocks"), ("pages", "ms"), ("bytes per recipient", "bytes")):
        _show(console, what, unit, found)


async def _at(number: int, options: argparse.Namespace, work: Any, url: str, amqp_url: str) -> Mapping[str, Any]:
    filling = Ledger(url, pool_size=1, transaction_seconds=FILL_SECONDS)
    began = time.monotonic()
    campaign = await filled(filling, number // 2 // OF_ENDED + 1, number)
    filled_in = time.monotonic() - began
    key = await new_key(filling)
    sizes = await _sizes(filling, number)
    await filling.close()
    ledger = Ledger(url, pool_size=1)
    try:
        steps = Steps(ledger)
        await _send(ledger, steps, options.batches)
        await _split(ledger, steps, campaign)
        await _prove(ledger, steps, campaign)
    finally:
        await ledger.close()
    pages = await ask_all(work, url, amqp_url, key, campaign, options.requests)
    return {
        "filled in seconds": round(filled_in),
        "steps": {name: round(statistics.median(times), 2) for name, times in steps.milliseconds.items()},
        "blocks": {name: round(statistics.median(times)) for name, times in steps.blocks.items()},
        "pages": {name: round(statistics.median(times), 1) for name, times in pages.items()},
        "bytes per recipient": sizes,
    }


async def _send(ledger: Ledger, steps: Steps, most: int) -> None:
    """Rounds of the dispatcher, and what a sender does with the batches that they release."""
    rig = DispatcherRig.on(ledger)
    done = 0
    while done < most:
        await register_sender(ledger, SENDERS, OWNER)
        async with steps.step("a round that releases"):
            await rig.round()
        async with ledger.read() as connection:
            released = (
                await connection.execute(text("SELECT id, generation FROM batch WHERE state = 'released' ORDER BY id"))
            ).all()
        assert released, "the dispatcher released nothing"
        for batch_id, generation in released:
            await _send_batch(ledger, steps, batch_id, generation)
            done += 1


async def _send_batch(ledger: Ledger, steps: Steps, batch_id: int, generation: int) -> None:
    async with steps.step("claim"):
        held = await claims.claim(ledger, batch_id, generation, OWNER, LEASE_SECONDS)
    assert held is not None
    after = 0
    while True:
        async with steps.step(f"worklist, {SLICE} rows"):
            rows = await read_worklist(ledger, held, DEFAULT_PROJECT, after, SLICE)
        for start in range(0, len(rows), GROUP):
            part = rows[start : start + GROUP]
            async with steps.step(f"record, {GROUP} results"):
                recorded = await record(ledger, [_group(held, part)], LEASE_SECONDS)
            assert not recorded[batch_id].lost
        if len(rows) < SLICE:
            break
        after = rows[-1].id
    async with steps.step("end of a batch"):
        left = await claims.let_go(ledger, held)
    assert left.state == "done"


def _group(held: Claim, rows: Sequence[WorklistRow]) -> Group:
    results = [accepted(row.id, row.email) for row in rows]
    return Group(held.batch_id, held.generation, held.campaign_id, DEFAULT_PROJECT, results)


async def _split(ledger: Ledger, steps: Steps, large: UUID) -> None:
    """Finds the range of a first batch, before which all other campaigns were imported."""
    for _ in range(PROVEN):
        async with steps.step(f"split, {BATCH} recipients"), ledger.write() as connection:
            cut = await campaigns.next_range(connection, large, 0, BATCH)
        assert cut is not None
        assert cut.size == BATCH


async def _prove(ledger: Ledger, steps: Steps, large: UUID) -> None:
    """Compares the rows of campaigns with their counts, as before each is closed."""
    async with ledger.read() as connection:
        ended = (
            await connection.execute(
                text("SELECT id FROM campaign WHERE id <> :large ORDER BY id LIMIT :most"),
                {"large": large, "most": PROVEN},
            )
        ).scalars()
        ids = [UUID(str(found)) for found in ended]
    for campaign_id in ids:
        async with steps.step(f"proof of a campaign of {OF_ENDED:,}"):
            proof = await prove(ledger, campaign_id, Deadline(60.0))
        assert isinstance(proof, Proof)
        assert proof.is_complete


async def _sizes(ledger: Ledger, recipients: int) -> Mapping[str, float]:
    """Bytes per recipient of the table and of each of its indexes."""
    async with ledger.read() as connection:
        found = await connection.execute(text(_SIZES))
        return {row.name: round(row.bytes / recipients, 1) for row in found}


_SIZES = """
    SELECT 'the row' AS name, pg_table_size('recipient') AS bytes
    UNION ALL
    SELECT indexrelid::regclass::text, pg_relation_size(indexrelid) FROM pg_index
    WHERE indrelid = 'recipient'::regclass
"""


def _write(found: Mapping[int, Mapping[str, Any]]) -> None:
    write_report("at_size", by_recipients=found)


def _show(console: Console, what: str, unit: str, found: Mapping[int, Mapping[str, Any]]) -> None:
    table = Table(title=f"{what}, {unit}")
    table.add_column("")
    for number in found:
        table.add_column(f"{number:,}", justify="right")
    names = next(iter(found.values()))[what]
    for name in names:
        table.add_row(name, *(f"{each[what][name]:g}" for each in found.values()))
    show_table(table, console)


if __name__ == "__main__":
    main()

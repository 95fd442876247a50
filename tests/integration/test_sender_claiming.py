"""Tickets and ticks compete for the places of a sender; neither holds up the other for longer than a claim."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.sender.campaigns import Campaigns
from services.sender.held_batches import HeldBatches
from services.sender.limits import Limits
from services.sender.metrics import SenderMetrics
from services.sender.worker import Worker
from shared.events import BatchReleased
from shared.process import Process
from shared.settings import SenderSettings
from tests.support.ledger import batches_of
from tests.support.seeds import seed_campaign

SECONDS = 10.0


@pytest.fixture
async def process(sqlite_url: str, tmp_path: Path) -> AsyncIterator[Process[SenderSettings]]:
    settings = SenderSettings(
        _env_file=None,
        database_url=sqlite_url,
        amqp_url="amqp://127.0.0.1:1/",  # no broker: the ledger is enough here
        var_dir=tmp_path,
        batches_in_hand=1,
        ticket_patience_seconds=0.0,
    )
    process = Process("sender", settings)
    yield process
    await process.ledger.close()


@pytest.fixture
def worker(process: Process[SenderSettings]) -> Worker:
    held_batches = HeldBatches(SenderMetrics(process.metrics.registry, process.settings))
    campaigns = Campaigns(process.ledger, process.settings, {}, held_batches.metrics, held_batches.wake_feed)
    return Worker(
        process,
        campaigns,
        held_batches,
        Limits(process.ledger, held_batches.metrics, held_batches.wake_feed),
        "sender@test",
        lambda _group: None,
    )


async def test_a_tick_never_waits_for_a_place(process: Process[SenderSettings], worker: Worker) -> None:
    """A ticket comes while the tick asks the ledger what is overlooked. There is one place, and the tick has it."""
    first, second = [await seed_campaign(process.ledger, 2) for _ in range(2)]
    tick = asyncio.create_task(worker.tick())
    await asyncio.sleep(0)  # the tick is under way
    ticket = BatchReleased(batch_id=second.batch_ids[0], campaign_id=second.id, generation=1)
    on_ticket = asyncio.create_task(worker.on_ticket(ticket))
    await asyncio.wait_for(tick, SECONDS)
    states = [batch.state for one in (first, second) for batch in await batches_of(process.ledger, one.id)]
    assert states == ["sending", "released"]
    assert not on_ticket.done()

    await asyncio.wait_for(worker.tick(), SECONDS)  # no place is free
    worker.drain()
    await asyncio.wait_for(worker.finish(), SECONDS)
    await asyncio.wait_for(on_ticket, SECONDS)
    states = [batch.state for one in (first, second) for batch in await batches_of(process.ledger, one.id)]
    assert states == ["waiting", "released"]

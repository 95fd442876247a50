"""Tickets and ticks compete for the places of a sender; neither holds up the other for longer than a claim."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Collection, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import update

from services.sender.batch_monitor import BatchMonitor
from services.sender.campaigns import Campaigns
from services.sender.db.campaigns import SHORT_BYTES
from services.sender.db.claims import claim, let_go
from services.sender.db.worklist import WorklistRow, read_worklist
from services.sender.engines import Engines
from services.sender.held_batch import HeldBatch, StopCause
from services.sender.held_batches import HeldBatches
from services.sender.limits import Limits
from services.sender.metrics import SenderMetrics
from services.sender.smtp.config import engine_config
from services.sender.worker import Worker
from shared.content import CampaignContent
from shared.events import BatchReleased
from shared.ledger import campaigns, rate_limits
from shared.ledger.database import Ledger
from shared.ledger.models import Batch
from shared.ledger.states import CampaignStatus
from shared.process import Process
from shared.relays.url import relays_of
from shared.settings import SenderSettings
from shared.tasks import end_all
from tests.support.ledger import batches_of, campaign_row, statements_of
from tests.support.seeds import seed_campaign
from tests.support.waiting import until

SECONDS = 10.0


@pytest.fixture
def places() -> int:
    """Batches that the sender may hold."""
    return 1


@pytest.fixture
async def process(sqlite_url: str, tmp_path: Path, places: int) -> AsyncIterator[Process[SenderSettings]]:
    settings = SenderSettings(
        _env_file=None,
        database_url=sqlite_url,
        amqp_url="amqp://127.0.0.1:1/",  # no broker: the ledger is enough here
        var_dir=tmp_path,
        batches_in_hand=places,
        ticket_patience_seconds=0.0,
    )
    process = Process("sender", settings)
    yield process
    await process.ledger.close()


@pytest.fixture
def held_batches(process: Process[SenderSettings]) -> HeldBatches:
    return HeldBatches(SenderMetrics(process.metrics.registry, process.settings))


@pytest.fixture
def known(process: Process[SenderSettings], held_batches: HeldBatches) -> Campaigns:
    return Campaigns(process.ledger, process.settings, {}, held_batches.metrics, held_batches.wake_feed)


@pytest.fixture
def limits(process: Process[SenderSettings], held_batches: HeldBatches) -> Limits:
    return Limits(process.ledger, held_batches.metrics, held_batches.wake_feed)


@pytest.fixture
def worker(process: Process[SenderSettings], held_batches: HeldBatches, known: Campaigns, limits: Limits) -> Worker:
    return Worker(
        process,
        known,
        held_batches,
        limits,
        "sender@test",
        lambda _group: None,
    )


@pytest.fixture
def monitor(process: Process[SenderSettings], held_batches: HeldBatches, limits: Limits) -> BatchMonitor:
    engine = Engines(relays_of(process.settings), engine_config(process.settings))
    return BatchMonitor(process.settings, process.ledger, engine, held_batches, limits)


@pytest.mark.parametrize("is_over", [True, False])
async def test_a_batch_that_is_let_go_during_a_look_is_not_taken_for_lost(
    process: Process[SenderSettings], held_batches: HeldBatches, known: Campaigns, monitor: BatchMonitor, is_over: bool
) -> None:
    """The ledger has let it go, and the look is answered first. A batch with emails left was lost to another sender."""
    seeded = await seed_campaign(process.ledger, 2, batch_size=2)
    claimed = await claim(process.ledger, seeded.batch_ids[0], 1, "sender@test", 15.0)
    assert claimed is not None
    held = HeldBatch(claimed, await known.get(seeded.id), time.monotonic() - 2 * process.settings.renew_seconds)
    rows = await read_worklist(process.ledger, claimed, held.facts.project_id, 0, 10)
    held.add_slice([] if is_over else rows, 10)
    held_batches.add(held)
    await let_go(process.ledger, claimed)
    await monitor.look()
    assert held.is_lost is not is_over


@pytest.mark.parametrize("places", [2])
async def test_a_batch_that_was_refused_before_a_person_resumed_its_campaign_does_not_pause_it_again(
    process: Process[SenderSettings], worker: Worker, held_batches: HeldBatches
) -> None:
    seeded = await seed_campaign(process.ledger, 4, batch_size=2)

    async def has(status: str) -> bool:
        return bool((await campaign_row(process.ledger, seeded.id)).status == status)

    claims = [
        asyncio.create_task(worker.on_ticket(BatchReleased(batch_id=one, campaign_id=seeded.id, generation=1)))
        for one in seeded.batch_ids
    ]
    await until(lambda: len(held_batches) == 2)
    early, late = held_batches
    early.stop_for(StopCause.REFUSED, "refused")
    await until(lambda: has("paused"))
    await until(lambda: early not in held_batches)
    async with process.ledger.write() as connection:
        for status in (CampaignStatus.QUEUED, CampaignStatus.SENDING):
            assert await campaigns.move(connection, seeded.id, status)
    late.stop_for(StopCause.REFUSED, "refused")
    await asyncio.wait_for(worker.finish(), SECONDS)
    await asyncio.gather(*claims)
    assert await has("sending")


@pytest.mark.parametrize("places", [2])
@pytest.mark.parametrize("characters", [100, 4 * SHORT_BYTES])
async def test_the_first_batches_of_a_campaign_read_it_once_and_have_its_content_loaded(
    process: Process[SenderSettings], worker: Worker, held_batches: HeldBatches, known: Campaigns, characters: int
) -> None:
    """No email has asked for the content yet: there is no engine."""
    content = CampaignContent(subject="Hello", text=f"{'word ' * (characters // 5)}\n").model_dump_json()
    seeded = await seed_campaign(process.ledger, 4, batch_size=2, content=content)
    loading = asyncio.create_task(known.contents.run())
    with statements_of(process.ledger) as executed:
        claims = [
            asyncio.create_task(worker.on_ticket(BatchReleased(batch_id=one, campaign_id=seeded.id, generation=1)))
            for one in seeded.batch_ids
        ]
        await until(lambda: len(held_batches) == 2 and all(held.facts.content.builder for held in held_batches))
    reads_content = int(len(content) > SHORT_BYTES)  # a short one comes with its campaign
    for what, times in {"project.sender_id": 1, "FROM rate_limit": 1, "SELECT campaign.content": reads_content}.items():
        assert sum(what in statement for statement, _ in executed) == times, what
    worker.drain()
    await asyncio.wait_for(worker.finish(), SECONDS)
    await asyncio.gather(*claims)
    await end_all([loading])


async def test_a_campaign_under_a_rate_is_not_loaded_before_its_emails_may_start(
    process: Process[SenderSettings], worker: Worker, held_batches: HeldBatches, known: Campaigns
) -> None:
    """A sender holds many such batches at once, and has no room for the contents of all."""
    seeded = await seed_campaign(process.ledger, 2)
    async with process.ledger.write() as connection:
        await rate_limits.put(connection, rate_limits.campaign_scope(seeded.id), 1.0)
        await connection.execute(update(Batch).values(span_seconds=2.0))
    loading = asyncio.create_task(known.contents.run())
    (batch_id,) = seeded.batch_ids
    ticket = BatchReleased(batch_id=batch_id, campaign_id=seeded.id, generation=1)
    with statements_of(process.ledger) as executed:
        await asyncio.wait_for(worker.on_ticket(ticket), SECONDS)  # it takes no place
        (held,) = held_batches
        await until(lambda: bool(held.worklist))
    assert any("FROM rate_limit" in statement for statement, _ in executed)
    assert not any(statement.startswith("SELECT campaign.content") for statement, _ in executed)
    worker.drain()
    await asyncio.wait_for(worker.finish(), SECONDS)
    await end_all([loading])


async def test_a_batch_has_no_email_to_start_before_its_limits_are_known(
    process: Process[SenderSettings],
    worker: Worker,
    held_batches: HeldBatches,
    limits: Limits,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are read at the same time as its recipients. No ticket has made the sender read them before."""
    seeded = await seed_campaign(process.ledger, 2)
    async with process.ledger.write() as connection:
        await rate_limits.put(connection, rate_limits.campaign_scope(seeded.id), 1.0)
        await connection.execute(update(Batch).values(span_seconds=2.0))
    (batch_id,) = seeded.batch_ids
    assert await claim(process.ledger, batch_id, 1, "sender@test", 15.0) is not None
    may_learn, have_read, read_limits = asyncio.Event(), asyncio.Event(), rate_limits.read_alone

    async def learn_later(ledger: Ledger, scopes: Collection[str]) -> dict[str, rate_limits.Limit]:
        await may_learn.wait()
        return await read_limits(ledger, scopes)

    async def read(*what: Any) -> Sequence[WorklistRow]:
        rows = await read_worklist(*what)
        have_read.set()
        return rows

    monkeypatch.setattr(rate_limits, "read_alone", learn_later)
    monkeypatch.setattr("services.sender.worker.read_worklist", read)
    await asyncio.wait_for(worker.resume(), SECONDS)
    (held,) = held_batches
    await asyncio.wait_for(have_read.wait(), SECONDS)
    for _ in range(10):
        await asyncio.sleep(0)  # what waits for the rows alone goes on
    assert not held.worklist
    may_learn.set()
    await until(lambda: bool(held.worklist))
    assert limits.have_rate(held.facts.limit_scopes)
    worker.drain()
    await asyncio.wait_for(worker.finish(), SECONDS)


async def test_a_ticket_of_a_campaign_that_is_gone_is_dropped(worker: Worker, held_batches: HeldBatches) -> None:
    unforeseen: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unforeseen.append(context))
    await asyncio.wait_for(worker.on_ticket(BatchReleased(batch_id=7, campaign_id=uuid4(), generation=1)), SECONDS)
    await asyncio.wait_for(worker.finish(), SECONDS)
    assert not len(held_batches)
    gc.collect()  # a task that failed without being awaited says so then
    assert not unforeseen


async def test_a_restarted_sender_resumes_more_batches_than_it_has_places(
    process: Process[SenderSettings], worker: Worker, held_batches: HeldBatches
) -> None:
    """The first two had all their emails in flight when it died, so the third had the place. None may wait until a
    ticket for it comes round again, behind those of other batches."""
    seeded = await seed_campaign(process.ledger, 6, batch_size=2)
    for batch_id in seeded.batch_ids:
        assert await claim(process.ledger, batch_id, 1, "sender@test", 15.0) is not None
    await asyncio.wait_for(worker.resume(), SECONDS)
    await until(lambda: len(held_batches) == 3)
    assert [held.has_place for held in held_batches] == [False, False, True]
    states = [(batch.state, batch.generation) for batch in await batches_of(process.ledger, seeded.id)]
    assert states == [("sending", 3)] * 3
    worker.drain()
    await asyncio.wait_for(worker.finish(), SECONDS)


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

"""The recorder gathers results before it commits them."""

import asyncio
from collections.abc import Sequence

import pytest
from prometheus_client import CollectorRegistry

from services.sender import recorder
from services.sender.db.record import Group, Recorded
from services.sender.held_batches import HeldBatches
from services.sender.metrics import SenderMetrics
from services.sender.recorder import Recorder
from services.sender.refusals import RefusalWatch
from services.sender.spread import SpreadWatch
from shared.ledger.database import Ledger
from shared.ledger.states import RecipientStatus
from shared.settings import SenderSettings
from tests.support.held import held_batch, row
from tests.support.waiting import until

LEDGER = Ledger("sqlite+aiosqlite:///never-opened.db")


@pytest.fixture
def committed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many results each commit has had."""
    sizes: list[int] = []

    async def record(_ledger: Ledger, groups: Sequence[Group], _lease_seconds: float) -> dict[int, Recorded]:
        sizes.append(sum(len(group.results) for group in groups))
        return {group.batch_id: Recorded(group.results) for group in groups}

    monkeypatch.setattr(recorder, "record", record)
    return sizes


@pytest.mark.parametrize(("asks", "sizes"), [(False, [2]), (True, [1, 1])])
async def test_results_that_come_one_after_the_other_share_a_commit_unless_one_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, committed: list[int], asks: bool, sizes: list[int]
) -> None:
    monkeypatch.setattr(recorder, "GATHER_SECONDS", 60.0)  # a full group ends the wait, not the clock
    batches = HeldBatches(SenderMetrics(CollectorRegistry(), SenderSettings()), group_size=2)
    held = held_batch(row(1), row(2))
    batches.add(held)
    task = asyncio.create_task(
        Recorder(LEDGER, batches, 15.0, RefusalWatch(), SpreadWatch(), lambda _relay: None).run()
    )
    try:
        for number in (1, 2):
            held.close(row(number), RecipientStatus.SUPPRESSED)
            batches.note_result()
            if asks:
                batches.record_now()
            for _ in range(20):
                await asyncio.sleep(0)  # the recorder would have committed by now
        await until(lambda: sum(committed) == 2)
    finally:
        task.cancel()
    assert committed == sizes


async def test_a_result_that_stays_alone_is_recorded_all_the_same(committed: list[int]) -> None:
    batches = HeldBatches(SenderMetrics(CollectorRegistry(), SenderSettings()), group_size=32)
    held = held_batch(row(1))
    batches.add(held)
    task = asyncio.create_task(
        Recorder(LEDGER, batches, 15.0, RefusalWatch(), SpreadWatch(), lambda _relay: None).run()
    )
    try:
        held.close(row(1), RecipientStatus.SUPPRESSED)
        batches.note_result()
        await until(lambda: committed == [1])
    finally:
        task.cancel()

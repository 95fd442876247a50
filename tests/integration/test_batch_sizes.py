"""Batches grow while a large campaign is sent fast, and not otherwise."""

from collections.abc import Sequence

import pytest
from sqlalchemy import select
from sqlmodel import col

from shared.events import AnyProgress, BatchFinished
from shared.ledger.database import Ledger
from shared.ledger.models import Batch
from tests.support.ledger import FakeSender, add_campaign, batches_of
from tests.support.services import DispatcherRig, ledger_at, register_sender
from tests.support.system import System

USUAL = 20
RECIPIENTS = 4000


async def sizes(database_url: str) -> Sequence[int]:
    async with ledger_at(database_url) as ledger, ledger.read() as connection:
        return (await connection.scalars(select(col(Batch.size)).order_by(col(Batch.id)))).all()


async def test_senders_say_how_fast_they_are_and_batches_grow(system: System, database_url: str) -> None:
    system.settings["batch_size"] = str(USUAL)
    await system.start(senders=1)
    campaign = await system.create(RECIPIENTS)
    await system.send(campaign)
    await system.wait_closed(campaign)
    found = await sizes(database_url)
    assert found[0] == USUAL
    assert USUAL < max(found) <= 4 * USUAL
    result = await system.reconcile(campaign)
    assert result.counts["sent"] == RECIPIENTS
    assert (result.lost, result.duplicated) == (0, 0)


@pytest.mark.parametrize(("pace", "expected"), [(60.0, 30), (10.0, USUAL), (0.0, USUAL)])
async def test_the_next_batch_follows_what_the_last_sender_said(ledger: Ledger, pace: float, expected: int) -> None:
    campaign = await add_campaign(ledger, 2000)
    await register_sender(ledger, 1)
    rig, sender = DispatcherRig.on(ledger, batch_size=USUAL), FakeSender(ledger)
    await rig.settle()
    batch_id, generation = (await sender.released())[0]
    held = await sender.claim(batch_id, generation)
    assert held is not None
    await sender.record(held)
    await sender.finish(held)
    said = BatchFinished(batch_id=batch_id, campaign_id=campaign, generation=2, emails_per_second=pace)
    await rig.dispatcher.on_progress(AnyProgress.model_validate_json(said.model_dump_json()))
    await rig.settle()
    assert (await batches_of(ledger, campaign))[-1].size == expected

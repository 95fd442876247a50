"""Batches grow while a campaign is sent fast, and not otherwise."""

from collections.abc import Sequence
from uuid import UUID

import pytest
from sqlalchemy import select
from sqlmodel import col

from shared.events import AnyProgress, BatchFinished, CampaignRequested
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


@pytest.mark.parametrize(
    ("recipients", "pace", "expected"),
    [(2000, 60.0, 30), (2000, 10.0, USUAL), (2000, 0.0, USUAL), (100, 1000.0, 100 - USUAL)],
)
async def test_the_next_batch_follows_what_the_last_sender_said_and_what_is_left(
    ledger: Ledger, recipients: int, pace: float, expected: int
) -> None:
    campaign = await add_campaign(ledger, recipients)
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


class TestBeforeABatchHasEnded:
    """A campaign gets as many batches as senders can take now: the others can be larger when its pace is known."""

    async def begun(self, ledger: Ledger) -> tuple[DispatcherRig, UUID]:
        """A campaign with a batch of the usual size for each of four places."""
        campaign = await add_campaign(ledger, 2000)
        await register_sender(ledger, 4)
        rig = DispatcherRig.on(ledger, batch_size=USUAL)
        await rig.settle()
        assert await self.batch_sizes(ledger, campaign) == [USUAL] * 4
        return rig, campaign

    @staticmethod
    async def batch_sizes(ledger: Ledger, campaign: UUID) -> Sequence[int]:
        return [batch.size for batch in await batches_of(ledger, campaign)]

    async def test_the_first_that_ends_starts_a_round_at_once(self, ledger: Ledger) -> None:
        rig, campaign = await self.begun(ledger)
        await rig.dispatcher.on_progress(AnyProgress(campaign_id=campaign, emails_per_second=1000.0))
        assert rig.dispatcher.is_woken
        await rig.settle()
        assert await self.batch_sizes(ledger, campaign) == [USUAL] * 4 + [4 * USUAL] * 4

    async def test_they_are_not_awaited_for_long(self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        rig, campaign = await self.begun(ledger)
        monkeypatch.setattr("services.dispatcher.paces.PATIENCE_SECONDS", 0.0)
        await rig.settle()
        assert await self.batch_sizes(ledger, campaign) == [USUAL] * 8

    async def test_a_sender_that_asks_gets_more(self, ledger: Ledger) -> None:
        rig, campaign = await self.begun(ledger)
        await rig.dispatcher.on_request(CampaignRequested(campaign_id=campaign))
        await rig.settle()
        assert await self.batch_sizes(ledger, campaign) == [USUAL] * 8

    async def test_one_under_a_limit_is_not_held_back(self, ledger: Ledger) -> None:
        campaign = await add_campaign(ledger, 2000, emails_per_second=1000.0)
        await register_sender(ledger, 4)
        await DispatcherRig.on(ledger, batch_size=USUAL).settle()
        assert await self.batch_sizes(ledger, campaign) == [USUAL] * 8

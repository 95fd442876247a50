"""Projects share the senders evenly, however many campaigns each has; two dispatchers agree."""

from collections import Counter
from uuid import UUID

from sqlalchemy import insert, select, text
from sqlmodel import col
from uuid6 import uuid7

from shared.events import AnyProgress
from shared.ledger.database import Ledger, db_now
from shared.ledger.models import DEFAULT_PROJECT, Batch, Campaign, Project
from tests.support.ledger import FakeSender, add_campaign, assert_sound
from tests.support.services import DispatcherRig, concurrently, register_sender
from tests.support.waiting import until


async def add_project(ledger: Ledger) -> UUID:
    project = uuid7()
    async with ledger.write() as connection:
        await connection.execute(insert(Project).values(id=project, name=str(project), created_at=db_now()))
    return UUID(int=project.int)


async def move_to(ledger: Ledger, campaign: UUID, project: UUID) -> None:
    key, owner = (campaign.hex, project.hex) if ledger.is_sqlite else (campaign, project)
    async with ledger.write() as connection:
        await connection.execute(
            text("UPDATE campaign SET project_id = :project WHERE id = :id"), {"project": owner, "id": key}
        )


async def released(ledger: Ledger) -> Counter[UUID]:
    """Batches that were ever released, by project."""
    async with ledger.read() as connection:
        found = await connection.execute(
            select(col(Campaign.project_id)).join(Batch, col(Batch.campaign_id) == col(Campaign.id))
        )
        return Counter(found.scalars())


async def test_a_project_with_many_campaigns_gets_one_share(ledger: Ledger) -> None:
    """Each has more to send than the senders can take, until the test ends."""
    other = await add_project(ledger)
    for _ in range(30):
        await add_campaign(ledger, 400, priority=5)
    await move_to(ledger, await add_campaign(ledger, 4000), other)
    await register_sender(ledger, 4)
    rig, sender = DispatcherRig.on(ledger, batch_size=50), FakeSender(ledger)
    while sum((shares := await released(ledger)).values()) < 64:
        await rig.round()
        await sender.send_all_released()
    assert abs(shares[DEFAULT_PROJECT] - shares[other]) <= 8, f"a window apart at most: {shares}"


async def test_two_dispatchers_send_all_of_many_campaigns(ledger: Ledger) -> None:
    other = await add_project(ledger)
    for number in range(20):
        campaign = await add_campaign(ledger, 60)
        if number % 2:
            await move_to(ledger, campaign, other)
    await register_sender(ledger, 4)
    rigs = [DispatcherRig.on(ledger, batch_size=50) for _ in range(2)]
    sender = FakeSender(ledger)
    while any(await concurrently(*(rig.round() for rig in rigs))) or await sender.send_all_released():
        pass
    async with ledger.read() as connection:
        closed = await connection.scalar(text("SELECT count(*) FROM campaign WHERE status = 'finished'"))
    assert closed == 20
    assert set(sender.sent.values()) == {1}
    assert len(sender.sent) == 1200
    await assert_sound(ledger)


async def test_an_event_makes_a_round_look_at_its_campaign(ledger: Ledger) -> None:
    campaign = await add_campaign(ledger, 100)
    rig, sender = DispatcherRig.on(ledger, batch_size=50), FakeSender(ledger)
    await rig.settle()
    assert len(await sender.released()) == 2
    await sender.send_all_released()
    await rig.dispatcher.on_progress(AnyProgress(campaign_id=campaign))
    async with rig.dispatcher.open():
        assert await rig.dispatcher.round("event")
    async with ledger.read() as connection:
        status = await connection.scalar(select(col(Campaign.status)).where(col(Campaign.id) == campaign))
    assert status == "finished"


async def test_a_lap_finds_what_no_event_named(ledger: Ledger) -> None:
    """A retry of a campaign that another dispatcher knew, which has died since: found by the clock alone."""
    rig = DispatcherRig.on(ledger)
    await rig.settle()
    for _ in range(150):
        await add_campaign(ledger, 0, status="paused")
    await add_campaign(ledger, 10, status="sending")

    async def found() -> bool:
        await rig.round()  # an idle dispatcher looks less often
        return bool(await FakeSender(ledger).released())

    await until(found)

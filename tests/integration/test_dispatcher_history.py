"""The dispatcher notes the progress of campaigns, on both databases."""

from uuid import UUID

from sqlalchemy import update
from sqlmodel import col

from services.dispatcher.history import LINGERING_TICKS, History
from shared.ledger import history
from shared.ledger.database import Ledger
from shared.ledger.history import MAX_POINTS, Point
from shared.ledger.models import Batch, Campaign
from tests.support.seeds import seed_campaign
from tests.support.services import ledger_at


async def sent(ledger: Ledger, campaign_id: UUID, number: int) -> None:
    async with ledger.write() as connection:
        await connection.execute(
            update(Batch)
            .where(col(Batch.campaign_id) == campaign_id)
            .values(sent=col(Batch.sent) + number, pending=col(Batch.pending) - number)
        )


async def set_status(ledger: Ledger, campaign_id: UUID, status: str) -> None:
    async with ledger.write() as connection:
        await connection.execute(update(Campaign).where(col(Campaign.id) == campaign_id).values(status=status))


async def curve(ledger: Ledger, campaign_id: UUID) -> list[Point]:
    async with ledger.read() as connection:
        return await history.curve(connection, campaign_id)


async def test_a_point_for_every_tick_with_progress(database_url: str) -> None:
    async with ledger_at(database_url) as ledger:
        campaign = await seed_campaign(ledger, 10)
        keeper = History(ledger, lambda: [campaign.id])
        await keeper.tick()
        await sent(ledger, campaign.id, 3)
        await keeper.tick()
        await sent(ledger, campaign.id, 4)
        await keeper.tick()
        points = await curve(ledger, campaign.id)
        assert [point.sent for point in points] == [0, 3, 7]
        assert [point.at for point in points] == sorted(point.at for point in points)


async def test_a_standstill_shows_as_a_flat_line(database_url: str) -> None:
    """However long it lasts, it takes one point: its last moment."""
    async with ledger_at(database_url) as ledger:
        campaign = await seed_campaign(ledger, 10)
        keeper = History(ledger, lambda: [campaign.id])
        await sent(ledger, campaign.id, 3)
        for _ in range(5):
            await keeper.tick()
        assert [point.sent for point in await curve(ledger, campaign.id)] == [3]
        await sent(ledger, campaign.id, 1)
        await keeper.tick()
        assert [point.sent for point in await curve(ledger, campaign.id)] == [3, 3, 4]


async def test_results_recorded_after_a_pause_are_still_noted_for_a_while(database_url: str) -> None:
    async with ledger_at(database_url) as ledger:
        campaign = await seed_campaign(ledger, 10)
        keeper = History(ledger, lambda: [campaign.id])
        await keeper.tick()
        await set_status(ledger, campaign.id, "paused")
        await sent(ledger, campaign.id, 2)
        await keeper.tick()
        assert (await curve(ledger, campaign.id))[-1].sent == 2
        for _ in range(LINGERING_TICKS):
            await keeper.tick()
        await sent(ledger, campaign.id, 2)
        await keeper.tick()
        assert (await curve(ledger, campaign.id))[-1].sent == 2


async def test_a_campaign_without_progress_and_a_closed_one_take_no_points(database_url: str) -> None:
    async with ledger_at(database_url) as ledger:
        closed = await seed_campaign(ledger, 2, status="finished")
        keeper = History(ledger, lambda: [closed.id])
        await keeper.tick()
        assert await curve(ledger, closed.id) == []


async def test_the_curve_is_bounded(database_url: str) -> None:
    async with ledger_at(database_url) as ledger:
        campaign = await seed_campaign(ledger, 1)
        async with ledger.write() as connection:
            for number in range(MAX_POINTS + 20):
                await history.note(connection, campaign.id, [Point(1000.0 + number, number, 0)])
        points = await curve(ledger, campaign.id)
        assert len(points) == MAX_POINTS
        assert (points[0].sent, points[-1].sent) == (0, MAX_POINTS + 19)

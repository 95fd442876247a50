"""Notes how far campaigns are, every second, for the curve that people look at. Nothing is decided by it."""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from shared.ledger import campaigns, history
from shared.ledger.database import Ledger, clock
from shared.ledger.history import Point
from shared.ledger.models import Batch, Campaign
from shared.ledger.states import ACTIVE

NOTE_SECONDS = 1.0
MOST_CAMPAIGNS = 1000
"""So many active campaigns are looked at, the oldest first."""
CAMPAIGNS_AT_ONCE = 50
"""So many are noted in a turn, those that waited longest first; the others' curves get coarser."""
LINGERING_TURNS = 5
"""A campaign that is paused or closed is looked at so much longer: its last results are still being recorded."""


@dataclass(slots=True)
class _Watched:
    """`noted` is the last point that was written, `seen` the last that was looked at."""

    noted: Point
    seen: Point
    lingers: int


class History:
    """Several dispatchers may keep it at the same time: the points only lie closer then."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._watched: dict[UUID, _Watched] = {}

    async def turn(self) -> None:
        """Looks at the campaigns that move, and notes those that have moved since the last time."""
        async with self._ledger.read() as connection:
            now = await clock(connection)
            active = await self._look(connection, now)
        moved = sorted(
            (campaign_id for campaign_id, (point, _) in active.items() if self._has_moved(campaign_id, point)),
            key=lambda campaign_id: self._watched[campaign_id].noted.at if campaign_id in self._watched else 0.0,
        )[:CAMPAIGNS_AT_ONCE]
        if moved:
            async with self._ledger.write() as connection:
                for campaign_id in sorted(moved):
                    await history.note(connection, campaign_id, self._points(campaign_id, active[campaign_id][0]))
        self._remember(active, set(moved))

    async def _look(self, connection: AsyncConnection, now: float) -> dict[UUID, tuple[Point, bool]]:
        """How far each campaign is, and whether it is active or only lingers."""
        found = await connection.execute(
            select(col(Campaign.id))
            .where(campaigns.not_closed(), col(Campaign.status).in_([status.value for status in ACTIVE]))
            .order_by(col(Campaign.id))
            .limit(MOST_CAMPAIGNS)
        )
        active = set(found.scalars())
        sums = await connection.execute(
            select(col(Batch.campaign_id), func.sum(col(Batch.sent)), func.sum(col(Batch.failed)))
            .where(col(Batch.campaign_id).in_([*active, *self._watched.keys() - active]))
            .group_by(col(Batch.campaign_id))
        )
        return {row[0]: (Point(now, int(row[1]), int(row[2])), row[0] in active) for row in sums}

    def _has_moved(self, campaign_id: UUID, point: Point) -> bool:
        watched = self._watched.get(campaign_id)
        return watched is None or watched.noted[1:] != point[1:]

    def _points(self, campaign_id: UUID, point: Point) -> list[Point]:
        """The new point; and where it stood still before, the moment until which it did."""
        watched = self._watched.get(campaign_id)
        if watched is not None and watched.seen.at > watched.noted.at and watched.seen[1:] == watched.noted[1:]:
            return [watched.seen, point]
        return [point]

    def _remember(self, active: dict[UUID, tuple[Point, bool]], noted: set[UUID]) -> None:
        watched, self._watched = self._watched, {}
        for campaign_id, (point, is_active) in active.items():
            before = watched.get(campaign_id)
            lingers = LINGERING_TURNS if is_active else (before.lingers if before else LINGERING_TURNS) - 1
            if lingers > 0 and (before or campaign_id in noted):
                last = point if campaign_id in noted or before is None else before.noted
                self._watched[campaign_id] = _Watched(last, point, lingers)

"""Notes the progress of campaigns every second, for the curve on the page. No decision depends on it."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Uuid, select
from sqlmodel import col

from shared.ledger import history, rows
from shared.ledger.counts import counts_alone
from shared.ledger.database import Ledger
from shared.ledger.history import Point
from shared.ledger.models import Campaign
from shared.ledger.states import ACTIVE

NOTE_SECONDS = 1.0
MOST_CAMPAIGNS = 1000
"""Active campaigns with batches out that are looked at in one tick, the oldest first."""
CAMPAIGNS_AT_ONCE = 50
"""Campaigns noted in one tick, those that waited longest first; the curves of the others get coarser."""
LINGERING_TICKS = 5
"""Ticks for which a campaign is still looked at after it is paused or closed, or its last batch came back, while its
last results are recorded."""


_IS_ACTIVE = col(Campaign.status).in_([status.value for status in ACTIVE])
_ACTIVE = rows.among(col(Campaign.id), Uuid, "out", select(col(Campaign.id)).where(_IS_ACTIVE).where)


@dataclass(slots=True)
class _Watched:
    noted: Point  # the last point that was written
    seen: Point  # the last point that was looked at
    lingers: int  # ticks for which it is still looked at


class History:
    """Several dispatchers may keep it at the same time: the points are only closer together then."""

    def __init__(self, ledger: Ledger, out_lately: Callable[[], Collection[UUID]]) -> None:
        self._ledger = ledger
        #: Campaigns that have batches out, or had until a moment ago: only these get results.
        self._out_lately = out_lately
        self._watched: dict[UUID, _Watched] = {}

    async def tick(self) -> None:
        """Notes the progress of campaigns that have moved since the last tick."""
        if not self._out_lately() and not self._watched:
            return
        active = await self._look()
        moved = sorted(
            (campaign_id for campaign_id, (point, _) in active.items() if self._has_moved(campaign_id, point)),
            key=lambda campaign_id: self._watched[campaign_id].noted.at if campaign_id in self._watched else 0.0,
        )[:CAMPAIGNS_AT_ONCE]
        if moved:
            async with self._ledger.write() as connection:
                for campaign_id in sorted(moved):
                    await history.note(connection, campaign_id, self._points(campaign_id, active[campaign_id][0]))
        self._remember(active, set(moved))

    async def _look(self) -> dict[UUID, tuple[Point, bool]]:
        """The progress of each campaign, and whether it is active or only lingers."""
        now = await self._ledger.now()
        out = sorted(self._out_lately())[:MOST_CAMPAIGNS]
        found = await self._ledger.read_alone(_ACTIVE[self._ledger.dialect], {"out": out})
        active = {row.id for row in found}
        counted = await counts_alone(self._ledger, [*active, *self._watched.keys() - active])
        return {
            campaign_id: (Point(now, counts["sent"], counts["failed"]), campaign_id in active)
            for campaign_id, counts in counted.items()
        }

    def _has_moved(self, campaign_id: UUID, point: Point) -> bool:
        watched = self._watched.get(campaign_id)
        return watched is None or watched.noted[1:] != point[1:]

    def _points(self, campaign_id: UUID, point: Point) -> list[Point]:
        """The new point; after a standstill also the moment at which it ended."""
        watched = self._watched.get(campaign_id)
        if watched is not None and watched.seen.at > watched.noted.at and watched.seen[1:] == watched.noted[1:]:
            return [watched.seen, point]
        return [point]

    def _remember(self, active: dict[UUID, tuple[Point, bool]], noted: set[UUID]) -> None:
        watched, self._watched = self._watched, {}
        for campaign_id, (point, is_active) in active.items():
            before = watched.get(campaign_id)
            lingers = LINGERING_TICKS if is_active else (before.lingers if before else LINGERING_TICKS) - 1
            if lingers > 0 and (before or campaign_id in noted):
                last = point if campaign_id in noted or before is None else before.noted
                self._watched[campaign_id] = _Watched(last, point, lingers)

"""The curve of a campaign's progress: how many were sent and had failed at which moment; bounded in points.

The numbers are totals, so a moment that nobody noted only makes the curve coarser there, never wrong.
"""

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from shared.ledger import rows
from shared.ledger.models import ProgressPoint

MAX_POINTS = 120


class Point(NamedTuple):
    """At this moment (the ledger's seconds) so many were sent and so many had failed."""

    at: float
    sent: int
    failed: int


async def note(connection: AsyncConnection, campaign_id: UUID, points: Sequence[Point]) -> None:
    """Adds points to a campaign's curve. Beyond MAX_POINTS those go without which it changes least."""
    await connection.execute(
        rows.insert_missing(connection, ProgressPoint),
        [{"campaign_id": campaign_id, **point._asdict()} for point in points],
    )
    found = await connection.execute(
        select(col(ProgressPoint.at))
        .where(col(ProgressPoint.campaign_id) == campaign_id)
        .order_by(col(ProgressPoint.at))
    )
    surplus = crowded(list(found.scalars()), MAX_POINTS)
    if surplus:
        await connection.execute(
            delete(ProgressPoint).where(
                col(ProgressPoint.campaign_id) == campaign_id, col(ProgressPoint.at).in_(surplus)
            )
        )


async def curve(connection: AsyncConnection, campaign_id: UUID) -> list[Point]:
    """A campaign's points, oldest first; at most MAX_POINTS."""
    found = await connection.execute(
        select(col(ProgressPoint.at), col(ProgressPoint.sent), col(ProgressPoint.failed))
        .where(col(ProgressPoint.campaign_id) == campaign_id)
        .order_by(col(ProgressPoint.at))
    )
    return [Point(*row) for row in found]


def crowded(moments: list[float], keep: int) -> list[float]:
    """The moments to drop so that `keep` (at least two) stay, spread evenly: always the one whose neighbours are
    closest to each other, never the first or the last."""
    kept = list(moments)
    dropped = []
    while len(kept) > keep:
        inner = min(range(1, len(kept) - 1), key=lambda index: kept[index + 1] - kept[index - 1])
        dropped.append(kept.pop(inner))
    return dropped

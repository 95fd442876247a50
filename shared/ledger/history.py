"""The curve of a campaign's progress: totals of sent and failed at up to MAX_POINTS moments.

The numbers are totals, so a moment that was not noted makes the curve coarser there, but not wrong.
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
    at: float  # seconds since 1970, by the database's clock
    sent: int
    failed: int


async def note(connection: AsyncConnection, campaign_id: UUID, points: Sequence[Point]) -> None:
    """Adds points to a campaign's curve. Beyond MAX_POINTS, drops those without which the curve changes least."""
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
    """The moments to drop so that `keep` (at least two) stay, evenly spread.

    It drops the one whose neighbours are closest to each other, again and again, but never the first or the last."""
    kept = list(moments)
    dropped = []
    while len(kept) > keep:
        inner = min(range(1, len(kept) - 1), key=lambda index: kept[index + 1] - kept[index - 1])
        dropped.append(kept.pop(inner))
    return dropped

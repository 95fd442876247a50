"""Progress of a campaign: counts and rates now, the curve since the start, and the timeline."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from services.api.shapes.campaigns import CampaignSummary, ForgottenOut
from services.api.shapes.common import Page, moment
from services.api.shapes.imports import ImportOut
from services.api.shapes.progress import LiveRates, Progress, TimelineEntry
from services.api.usecases import campaign_row
from services.api.usecases.campaign_row import CampaignRef
from services.api.usecases.import_reports import list_imports
from services.api.usecases.paging import cut
from services.api.usecases.summaries import forgotten, summaries, summary
from shared.ledger import history
from shared.ledger.database import clock
from shared.ledger.history import Point
from shared.ledger.models import Timeline
from shared.ledger.states import EDITABLE

_ENTRIES = select(Timeline.__table__)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Overview:
    """Everything about the course of one campaign."""

    row: Row[Any]
    summary: CampaignSummary
    curve: Sequence[Point]  # from the start to now, or to the end; empty before the start
    timeline: Sequence[TimelineEntry]  # newest first
    imports: Sequence[ImportOut]  # the newest, while recipients can be added
    forgotten: ForgottenOut | None  # what is left of deleted results


async def look(connection: AsyncConnection, campaign: CampaignRef, previous: Progress | None) -> Progress:
    """Progress now, and the rate since `previous`. Raises NotFoundError."""
    now = await clock(connection)
    shown = await summary(connection, campaign)
    current = None
    if previous is not None and previous.at is not None:
        seconds = now - previous.at.timestamp()
        current = round((shown.counts.sent - previous.counts.sent) / seconds, 1) if seconds > 0 else None
    return Progress(
        at=moment(now),
        status=shown.status,
        reason=shown.reason,
        blocked_by=shown.blocked_by,
        counts=shown.counts,
        rates=LiveRates(**shown.rates.model_dump(), current_per_second=current),
    )


async def timeline(connection: AsyncConnection, campaign: CampaignRef, after: int, limit: int) -> Page[TimelineEntry]:
    """Entries with ids above `after`, oldest first. Raises NotFoundError."""
    await campaign_row.find(connection, campaign)
    found = await connection.execute(
        _ENTRIES.where(col(Timeline.campaign_id) == campaign.id, col(Timeline.id) > after)
        .order_by(col(Timeline.id))
        .limit(limit + 1)
    )
    rows, following = cut(found.all(), limit)
    return Page(data=[TimelineEntry.model_validate(row) for row in rows], next_cursor=following)


async def overview(connection: AsyncConnection, campaign: CampaignRef, *, entries: int, imports: int) -> Overview:
    """The campaign with at most `entries` of its timeline and `imports` of its imports. Raises NotFoundError."""
    row = await campaign_row.find(connection, campaign)
    [shown] = await summaries(connection, [row])
    end = Point(row.finished_at or await clock(connection), shown.counts.sent, shown.counts.failed)
    points = await history.curve(connection, campaign.id)
    newest = await connection.execute(
        _ENTRIES.where(col(Timeline.campaign_id) == campaign.id).order_by(col(Timeline.id).desc()).limit(entries)
    )
    recent = (await list_imports(connection, campaign, None, imports)).data if shown.status in EDITABLE else ()
    left = None if row.forgotten_at is None else await forgotten(connection, row.id)
    entries_shown = [TimelineEntry.model_validate(one) for one in newest]
    return Overview(row, shown, _whole(points, row, end), entries_shown, recent, left)


def _whole(points: Sequence[Point], row: Row[Any], end: Point) -> list[Point]:
    """The curve with its two ends, which are known without having been noted."""
    if row.started_at is None:
        return []
    inner = (point for point in points if row.started_at < point.at < end.at)
    return [Point(row.started_at, 0, 0), *inner, end]

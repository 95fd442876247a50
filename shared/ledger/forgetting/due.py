"""Which campaigns are past the retention of their project, and what would go with them."""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import ColumnElement, func, or_, select, text
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from shared.ledger.database import clock
from shared.ledger.models import Campaign, Project
from shared.ledger.states import FINAL

DAY_SECONDS = 86_400.0
FOR_EVER = 0
MOST_DAYS = 36_500

SQLITE_ROW_BYTES = 400
"""Of a recipient with its share of the indexes, about."""


@dataclass(frozen=True, slots=True)
class Due:
    """A campaign whose results may be deleted."""

    campaign_id: UUID
    days: int


@dataclass(frozen=True, slots=True)
class Preview:
    """What is kept of one project, and what would be deleted now."""

    project_id: UUID
    project: str
    #: Days for which results are kept; 0: for ever.
    days: int
    #: The project says so itself; else the setting does.
    is_own: bool
    #: Of the campaigns that ended and have results.
    oldest_end: float | None
    kept_campaigns: int
    kept_recipients: int
    due_campaigns: int
    due_recipients: int
    #: Of the recipients that would be deleted, with their indexes, about.
    due_bytes: int


def past(days: int, now: float) -> Sequence[ColumnElement[bool]]:
    """The campaign ended, and every clock says that this was `days` ago. `now` is the database's.

    Its id holds the moment of its creation by the clock of the process that created it (RFC 9562, section 5.7)."""
    limit = now - days * DAY_SECONDS
    created_before = UUID(int=max(int((time.time() - days * DAY_SECONDS) * 1000), 0) << 80)
    return (
        *kept(),
        col(Campaign.finished_at) < limit,
        col(Campaign.created_at) < limit,
        or_(col(Campaign.started_at).is_(None), col(Campaign.started_at) < limit),
        col(Campaign.id) < created_before,
    )


def kept() -> Sequence[ColumnElement[bool]]:
    """The campaign ended and has its results."""
    return (
        col(Campaign.forgotten_at).is_(None),
        col(Campaign.finished_at).is_not(None),
        col(Campaign.status).in_([status.value for status in FINAL]),
        col(Campaign.reopen).is_(None),
    )


async def due(connection: AsyncConnection, default_days: int, most: int) -> Sequence[Due]:
    """Campaigns past their retention, the oldest first; at most `most` for each number of days."""
    now = await clock(connection)
    found: list[Due] = []
    for days, project_ids in (await _by_days(connection, default_days)).items():
        rows = await connection.execute(
            select(col(Campaign.id))
            .where(*past(days, now), col(Campaign.project_id).in_(project_ids))
            .order_by(col(Campaign.finished_at))
            .limit(most)
        )
        found += [Due(campaign_id, days) for campaign_id in rows.scalars()]
    return found


async def number_due(connection: AsyncConnection, default_days: int) -> int:
    """How many campaigns are past their retention and are not marked."""
    now = await clock(connection)
    number = 0
    for days, project_ids in (await _by_days(connection, default_days)).items():
        count = select(func.count()).where(*past(days, now), col(Campaign.project_id).in_(project_ids))
        number += int(await connection.scalar(count) or 0)
    return number


async def oldest_end(connection: AsyncConnection) -> float | None:
    """When the first of the campaigns that have results ended; None if there is none."""
    found: float | None = await connection.scalar(select(func.min(col(Campaign.finished_at))).where(*kept()))
    return found


async def preview(connection: AsyncConnection, default_days: int) -> Sequence[Preview]:
    """Every project by name, closed ones included."""
    now = await clock(connection)
    row_bytes = await _row_bytes(connection)
    projects = await connection.execute(
        select(col(Project.id), col(Project.name), col(Project.retention_days)).order_by(col(Project.name))
    )
    shown: list[Preview] = []
    for project in projects.all():
        days = default_days if project.retention_days is None else project.retention_days
        number, people = func.count(), func.coalesce(func.sum(col(Campaign.total)), 0)
        mine = col(Campaign.project_id) == project.id
        all_of_it = await connection.execute(
            select(number, people, func.min(col(Campaign.finished_at))).where(mine, *kept())
        )
        kept_campaigns, kept_recipients, oldest = all_of_it.one()
        going = (0, 0)
        if days != FOR_EVER:
            going = (await connection.execute(select(number, people).where(mine, *past(days, now)))).one()
        shown.append(
            Preview(
                project.id,
                project.name,
                days,
                project.retention_days is not None,
                oldest,
                int(kept_campaigns),
                int(kept_recipients),
                int(going[0]),
                int(going[1]),
                int(going[1] * row_bytes),
            )
        )
    return shown


async def _by_days(connection: AsyncConnection, default_days: int) -> Mapping[int, Sequence[UUID]]:
    """The projects that keep results for so many days; without those that keep them for ever."""
    projects = await connection.execute(select(col(Project.id), col(Project.retention_days)))
    by_days: defaultdict[int, list[UUID]] = defaultdict(list)
    for project_id, own in projects:
        by_days[default_days if own is None else own].append(project_id)
    by_days.pop(FOR_EVER, None)
    return by_days


async def _row_bytes(connection: AsyncConnection) -> float:
    """Of a recipient, with its share of the indexes."""
    if connection.dialect.name != "postgresql":
        return SQLITE_ROW_BYTES
    found = await connection.scalar(
        text(
            "SELECT pg_total_relation_size(oid) / reltuples FROM pg_class"
            " WHERE oid = to_regclass('recipient') AND reltuples > 0"
        )
    )
    return float(found or SQLITE_ROW_BYTES)

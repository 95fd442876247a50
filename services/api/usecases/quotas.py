"""What a project may do at most: tests in an hour, imports and event streams at once."""

import math
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from services.api.usecases.errors import LimitReachedError, Quota
from shared.ledger.database import db_now
from shared.ledger.models import Campaign, Import
from shared.ledger.projects import ProjectRow
from shared.ledger.states import ImportState

HOUR_SECONDS = 3600.0
IMPORT_SECONDS = 10
STREAM_SECONDS = 5
_IDS_SECONDS = 3 * HOUR_SECONDS
"""An id begins with the time by the clock of the API process that made it, which may differ from the database's."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The default limits: of a project that sets none."""

    tests_per_hour: int
    open_imports: int
    open_streams: int


async def take_test(connection: AsyncConnection, project: ProjectRow, limits: Limits) -> Quota:
    """What is left after one more test. The project must be locked. Raises LimitReachedError."""
    limit = limits.tests_per_hour if project.tests_per_hour is None else project.tests_per_hour
    newest_ids = UUID(int=int((time.time() - _IDS_SECONDS) * 1000) << 80)
    tests = select(func.count(), db_now() - func.min(col(Campaign.created_at))).where(
        col(Campaign.project_id) == project.id,
        col(Campaign.id) > newest_ids,
        col(Campaign.test_of).is_not(None),
        col(Campaign.created_at) > db_now() - HOUR_SECONDS,
    )
    count, oldest_seconds = (await connection.execute(tests)).one()
    reset_seconds = math.ceil(HOUR_SECONDS - (oldest_seconds or 0.0))
    quota = Quota("tests_per_hour", limit, max(limit - count - 1, 0), max(reset_seconds, 1))
    if count >= limit:
        again = f"Test again in {quota.reset_seconds} s."
        raise LimitReachedError(f"The project may send {limit} tests in an hour. {again}", quota)
    return quota


async def require_room_for_import(connection: AsyncConnection, project: ProjectRow, limits: Limits) -> None:
    """The project must be locked. Raises LimitReachedError."""
    limit = limits.open_imports if project.open_imports is None else project.open_imports
    mine = (
        select(func.count())
        .select_from(Import)
        .join(Campaign, col(Campaign.id) == col(Import.campaign_id))
        .where(col(Campaign.project_id) == project.id, col(Import.state) == ImportState.OPEN.value)
    )
    if (await connection.scalar(mine) or 0) >= limit:
        quota = Quota("open_imports", limit, 0, IMPORT_SECONDS)
        raise LimitReachedError(f"The project may have {limit} imports open at once. Wait for one to end.", quota)


@dataclass(slots=True)
class Streams:
    """The event streams that this process holds open, by project."""

    _open: Counter[UUID] = field(default_factory=Counter)

    def count(self, project_id: UUID) -> int:
        return self._open[project_id]

    @contextmanager
    def place(self, project: ProjectRow, limits: Limits) -> Iterator[None]:
        """Holds a place for one stream. Raises LimitReachedError."""
        limit = limits.open_streams if project.open_streams is None else project.open_streams
        if self._open[project.id] >= limit:
            quota = Quota("open_streams", limit, 0, STREAM_SECONDS)
            raise LimitReachedError(f"The project may hold {limit} event streams open at once. Close one.", quota)
        self._open[project.id] += 1
        try:
            yield
        finally:
            self._open[project.id] -= 1
            if not self._open[project.id]:
                del self._open[project.id]

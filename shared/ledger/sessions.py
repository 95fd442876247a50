"""Sessions of the page, one row each: a cookie alone is worth nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import delete, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from shared.ledger.database import db_now
from shared.ledger.models import ApiKey, Project
from shared.ledger.tenants import PageSession

SEEN_SECONDS = 60.0
"""How coarse `seen_at` is."""
KEPT_SECONDS = 7 * 86_400.0
"""For how long a session that is over stays in the list."""


@dataclass(frozen=True, slots=True)
class SessionRow:
    """One session. Moments are seconds since 1970."""

    id: str
    key_id: UUID
    #: The name of its key.
    key: str
    #: The project's name.
    project: str
    started_at: float
    #: The last request, to the minute.
    seen_at: float
    expires_at: float
    address: str
    browser: str


async def start(
    connection: AsyncConnection, session_id: str, key_id: UUID, expires_at: float, *, address: str, browser: str
) -> None:
    """Notes a sign-in. The id must be new."""
    await connection.execute(
        insert(PageSession).values(
            id=session_id,
            key_id=key_id,
            started_at=db_now(),
            seen_at=db_now(),
            expires_at=expires_at,
            address=address[:64],
            browser=browser[:200],
        )
    )


async def seconds_unseen(connection: AsyncConnection, session_id: str) -> float | None:
    """Seconds since its last request; None if there is no such session or it is over."""
    seen = select(db_now() - col(PageSession.seen_at)).where(col(PageSession.id) == session_id, *_LIVE)
    found: float | None = await connection.scalar(seen)
    return found


async def note_seen(connection: AsyncConnection, session_id: str) -> None:
    """Notes a request."""
    await connection.execute(update(PageSession).where(col(PageSession.id) == session_id).values(seen_at=db_now()))


async def live(connection: AsyncConnection, key_id: UUID | None = None) -> Sequence[SessionRow]:
    """Sessions that are not over, newest first: of a key, or (None) of all."""
    query: Any = (
        select(
            col(PageSession.id),
            col(PageSession.key_id),
            col(ApiKey.name),
            col(Project.name).label("project"),
            col(PageSession.started_at),
            col(PageSession.seen_at),
            col(PageSession.expires_at),
            col(PageSession.address),
            col(PageSession.browser),
        )
        .join(ApiKey.__table__, col(ApiKey.id) == col(PageSession.key_id))  # type: ignore[attr-defined]
        .join(Project.__table__, col(Project.id) == col(ApiKey.project_id))  # type: ignore[attr-defined]
        .where(
            *_LIVE,
            col(ApiKey.revoked_at).is_(None),
            or_(col(ApiKey.expires_at).is_(None), col(ApiKey.expires_at) > db_now()),
            col(Project.closed_at).is_(None),
        )
    )
    if key_id is not None:
        query = query.where(col(PageSession.key_id) == key_id)
    found = await connection.execute(query.order_by(col(PageSession.started_at).desc(), col(PageSession.id)))
    return [SessionRow(*row) for row in found]


async def end(connection: AsyncConnection, session_id: str, key_id: UUID | None = None) -> bool:
    """Ends a session; with `key_id` only if it is of that key. False if there is none, or it is over."""
    wanted = [col(PageSession.id) == session_id, *_LIVE]
    if key_id is not None:
        wanted.append(col(PageSession.key_id) == key_id)
    return (await connection.execute(update(PageSession).where(*wanted).values(ended_at=db_now()))).rowcount > 0


async def forget(connection: AsyncConnection) -> int:
    """Deletes sessions that have been over for KEPT_SECONDS; returns how many."""
    old = db_now() - KEPT_SECONDS
    over = or_(col(PageSession.expires_at) < old, col(PageSession.ended_at) < old)
    return (await connection.execute(delete(PageSession).where(over))).rowcount


_LIVE = (col(PageSession.ended_at).is_(None), col(PageSession.expires_at) > db_now())

"""Webhooks of a project: created, shown, changed, replayed. The service `webhooks` delivers to them."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import RowMapping, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from services.api.shapes.common import Page
from services.api.shapes.webhooks import (
    Replayed,
    ReplayIn,
    SetAsideOut,
    WebhookChange,
    WebhookIn,
    WebhookOut,
    WebhookWithSecret,
)
from services.api.usecases.errors import LimitReachedError, NotFoundError, Quota, invalid
from services.api.usecases.tenant import Tenant
from shared.errors import DataError
from shared.ledger import event_feed, outbox, webhooks
from shared.ledger.facts import Fact, FactType
from shared.ledger.webhook_tables import WebhookEndpoint, WebhookSetAside

OVERLAP_SECONDS = 86_400.0
"""For which an old secret signs beside the new one."""

_COLUMNS = tuple(WebhookEndpoint.__table__.columns)  # type: ignore[attr-defined]


async def create(
    connection: AsyncConnection, tenant: Tenant, given: WebhookIn, *, most: int, needs_https: bool
) -> WebhookWithSecret:
    """Raises InvalidError, LimitReachedError."""
    await tenant.require_open(connection)
    mine = select(func.count()).where(col(WebhookEndpoint.project_id) == tenant.project_id)
    if (await connection.scalar(mine) or 0) >= most:
        raise LimitReachedError(f"The project may have {most} webhooks. Delete one.", Quota("webhooks", most, 0, 60))
    _check(given.url, needs_https=needs_https)
    types = _types(given.types)
    endpoint_id, secret = await webhooks.create(connection, tenant.project_id, given.url, types)
    shown = await show(connection, tenant.project_id, endpoint_id)
    return WebhookWithSecret(**shown.model_dump(), secret=secret)


async def list_webhooks(connection: AsyncConnection, project_id: UUID) -> Page[WebhookOut]:
    found = await connection.execute(
        select(*_COLUMNS).where(col(WebhookEndpoint.project_id) == project_id).order_by(col(WebhookEndpoint.id))
    )
    return Page(data=await _shown(connection, project_id, found.mappings().all()), next_cursor=None)


async def show(connection: AsyncConnection, project_id: UUID, endpoint_id: UUID) -> WebhookOut:
    """Raises NotFoundError."""
    found = await connection.execute(
        select(*_COLUMNS).where(col(WebhookEndpoint.project_id) == project_id, col(WebhookEndpoint.id) == endpoint_id)
    )
    rows = found.mappings().all()
    if not rows:
        raise NotFoundError("webhook with this id")
    return (await _shown(connection, project_id, rows))[0]


async def change(
    connection: AsyncConnection, project_id: UUID, endpoint_id: UUID, given: WebhookChange, *, needs_https: bool
) -> WebhookOut:
    """Raises NotFoundError, InvalidError."""
    values: dict[str, Any] = {}
    if given.url is not None:
        _check(given.url, needs_https=needs_https)
        values["url"] = given.url
    if given.types is not None:
        values["types"] = " ".join(sorted(_types(given.types))) or None
    if given.state is not None:
        values |= {"state": given.state, "failing_since": None, "failures": 0, "next_attempt_at": None}
    await show(connection, project_id, endpoint_id)
    if values:
        await connection.execute(update(WebhookEndpoint).where(col(WebhookEndpoint.id) == endpoint_id).values(**values))
    return await show(connection, project_id, endpoint_id)


async def remove(connection: AsyncConnection, project_id: UUID, endpoint_id: UUID) -> None:
    """Raises NotFoundError."""
    await show(connection, project_id, endpoint_id)
    await connection.execute(delete(WebhookEndpoint).where(col(WebhookEndpoint.id) == endpoint_id))
    await webhooks.update_wanted(connection, project_id)


async def rotate(connection: AsyncConnection, project_id: UUID, endpoint_id: UUID) -> WebhookWithSecret:
    """Raises NotFoundError."""
    shown = await show(connection, project_id, endpoint_id)
    secret = await webhooks.rotate(connection, endpoint_id, OVERLAP_SECONDS)
    return WebhookWithSecret(**shown.model_dump(), secret=secret)


async def test(connection: AsyncConnection, project_id: UUID, endpoint_id: UUID) -> WebhookOut:
    """Raises NotFoundError. The test takes the way of all events, behind those that wait."""
    shown = await show(connection, project_id, endpoint_id)
    fact = Fact(FactType.WEBHOOK_TEST, details={"webhook_id": str(endpoint_id)})
    await outbox.tell(connection, project_id, [fact])
    return shown


async def replay(connection: AsyncConnection, project_id: UUID, endpoint_id: UUID, given: ReplayIn) -> Replayed:
    """Raises NotFoundError."""
    await show(connection, project_id, endpoint_id)
    if given.since is None:
        return Replayed(events=await webhooks.retry_set_aside(connection, endpoint_id))
    await webhooks.replay(connection, endpoint_id, project_id, given.since.timestamp())
    return Replayed(events=None)


async def list_set_aside(
    connection: AsyncConnection, project_id: UUID, endpoint_id: UUID, after: int, limit: int
) -> Page[SetAsideOut]:
    """Raises NotFoundError."""
    await show(connection, project_id, endpoint_id)
    table = WebhookSetAside
    found = await connection.execute(
        select(table.__table__)  # type: ignore[attr-defined]
        .where(col(table.endpoint_id) == endpoint_id, col(table.position) > after)
        .order_by(col(table.position))
        .limit(limit + 1)
    )
    rows = found.all()
    following = str(rows[limit - 1].position) if len(rows) > limit else None
    return Page(data=[SetAsideOut.model_validate(row) for row in rows[:limit]], next_cursor=following)


async def _shown(connection: AsyncConnection, project_id: UUID, rows: Sequence[RowMapping]) -> list[WebhookOut]:
    stream = await event_feed.stream_of(connection, project_id)
    counted = await connection.execute(
        select(col(WebhookSetAside.endpoint_id), func.count())
        .where(col(WebhookSetAside.endpoint_id).in_([row["id"] for row in rows]))
        .group_by(col(WebhookSetAside.endpoint_id))
    )
    set_aside = {row[0]: row[1] for row in counted}
    return [
        WebhookOut(
            **{name: row[name] for name in WebhookOut.model_fields if name in row and name != "types"},
            types=[FactType(name) for name in (row["types"] or "").split()],
            behind=max(stream.last_position - row["cursor"], 0),
            set_aside=set_aside.get(row["id"], 0),
        )
        for row in rows
    ]


def _types(names: Sequence[str]) -> frozenset[str]:
    try:
        return event_feed.parse_types(",".join(names))
    except DataError as error:
        raise invalid("#/types", str(error)) from None


def _check(url: str, *, needs_https: bool) -> None:
    if needs_https and not url.startswith("https:"):
        raise invalid("#/url", "must begin with https: in production")

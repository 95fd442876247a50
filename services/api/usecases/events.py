"""The events of a project: whether it wants them, and reading them."""

from collections.abc import Collection
from dataclasses import asdict
from typing import Any
from uuid import UUID

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from services.api.shapes.events import EventStreamOut
from services.api.usecases.errors import EventsGoneError, InvalidError
from shared.errors import DataError
from shared.ledger import event_feed, webhooks
from shared.ledger.outbox_tables import EventStream


def chosen_types(names: str) -> frozenset[str]:
    """Raises InvalidError that lists the types there are."""
    try:
        return event_feed.parse_types(names)
    except DataError as error:
        raise InvalidError([{"parameter": "query types", "detail": str(error)}]) from None


async def read(
    connection: AsyncConnection, project_id: UUID, after: int, limit: int, types: Collection[str]
) -> dict[str, Any]:
    """An EventsPage as JSON values. Raises EventsGoneError if events after `after` were deleted; 0 begins with the
    oldest there is."""
    stream = await event_feed.stream_of(connection, project_id)
    if 0 < after < stream.forgotten_position:
        raise EventsGoneError(
            f"Events up to position {stream.forgotten_position} are past their retention, so some after {after} are"
            " deleted. Compare what you have with the campaigns, then go on with"
            f" `after={stream.forgotten_position}`.",
            forgotten_position=stream.forgotten_position,
        )
    found = await event_feed.read(connection, project_id, max(after, stream.forgotten_position), limit, types)
    return {
        "data": found.data,
        "next_cursor": str(found.until),
        "last_position": stream.last_position,
        "enabled": stream.wanted,
    }


async def show(connection: AsyncConnection, project_id: UUID) -> EventStreamOut:
    return EventStreamOut(**asdict(await event_feed.stream_of(connection, project_id)))


async def enable(connection: AsyncConnection, project_id: UUID, *, enabled: bool) -> EventStreamOut:
    """From then on events are written, or only as long as there is a webhook."""
    await event_feed.ensure_stream(connection, project_id)
    await connection.execute(
        update(EventStream).where(col(EventStream.project_id) == project_id).values(enabled=enabled)
    )
    await webhooks.update_wanted(connection, project_id)
    return await show(connection, project_id)

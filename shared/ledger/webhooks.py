"""Webhooks in the ledger: endpoints, their secrets, and how far each has come."""

import secrets
from base64 import b64encode
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, delete, exists, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col
from uuid6 import uuid7

from shared.ledger import event_feed
from shared.ledger.database import db_now
from shared.ledger.outbox_tables import EventStream, Outbox
from shared.ledger.webhook_tables import WebhookEndpoint, WebhookSecret, WebhookSetAside

SECRET_OCTETS = 32
SECRET_PREFIX = "whsec_"
LONGEST_LEASE_SECONDS = 60.0
LONGEST_WAIT_SECONDS = 7200.0
"""Longer than any lease, and than any wait for the next try: what ends later was written before the clock was set
back."""


class EndpointState(StrEnum):
    ACTIVE = "active"
    PAUSED = "paused"  # by a person
    DISABLED = "disabled"  # it failed for too long


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What a delivery needs to know of an endpoint."""

    id: UUID
    project_id: UUID
    url: str
    types: frozenset[str]
    cursor: int
    refused_in_a_row: int
    failures: int


@dataclass(frozen=True, slots=True)
class Ahead:
    """What lies ahead of a delivery."""

    #: Of the newest event of the project.
    last_position: int
    #: Events up to this position are deleted.
    forgotten_position: int
    #: Of the next event that was set aside and that a person wants to try again.
    again: int | None


async def update_wanted(connection: AsyncConnection, project_id: UUID) -> None:
    """Has facts written if the project asked for events or has an endpoint. Call it whenever either changes."""
    await event_feed.ensure_stream(connection, project_id)
    has_endpoint = exists().where(col(WebhookEndpoint.project_id) == project_id)
    await connection.execute(
        update(EventStream)
        .where(col(EventStream.project_id) == project_id)
        .values(wanted=or_(col(EventStream.enabled), has_endpoint))
    )


async def create(connection: AsyncConnection, project_id: UUID, url: str, types: Collection[str]) -> tuple[UUID, str]:
    """Adds an endpoint that gets the events that are written from now on; returns its id and secret."""
    endpoint_id = UUID(int=uuid7().int)
    await event_feed.ensure_stream(connection, project_id)
    # Facts that are committed but have no position yet come later.
    stream = await event_feed.stream_of(connection, project_id)
    await connection.execute(
        insert(WebhookEndpoint).values(
            id=endpoint_id,
            project_id=project_id,
            url=url,
            types=" ".join(sorted(types)) or None,
            state=EndpointState.ACTIVE.value,
            cursor=stream.last_position,
            created_at=db_now(),
        )
    )
    await update_wanted(connection, project_id)
    return endpoint_id, await add_secret(connection, endpoint_id)


async def add_secret(connection: AsyncConnection, endpoint_id: UUID) -> str:
    """Adds a secret and returns it; it is never shown again."""
    secret = SECRET_PREFIX + b64encode(secrets.token_bytes(SECRET_OCTETS)).decode()
    await connection.execute(
        insert(WebhookSecret).values(
            id=UUID(int=uuid7().int), endpoint_id=endpoint_id, secret=secret, created_at=db_now()
        )
    )
    return secret


async def rotate(connection: AsyncConnection, endpoint_id: UUID, overlap_seconds: float) -> str:
    """A new secret; those before it sign beside it for `overlap_seconds`."""
    await connection.execute(
        update(WebhookSecret)
        .where(col(WebhookSecret.endpoint_id) == endpoint_id, col(WebhookSecret.expires_at).is_(None))
        .values(expires_at=db_now() + overlap_seconds)
    )
    await connection.execute(
        delete(WebhookSecret).where(
            col(WebhookSecret.endpoint_id) == endpoint_id, col(WebhookSecret.expires_at) < db_now()
        )
    )
    return await add_secret(connection, endpoint_id)


async def valid_secrets(connection: AsyncConnection, endpoint_id: UUID) -> Sequence[str]:
    """Newest first. Only the service `webhooks` may read them."""
    found = await connection.execute(
        select(col(WebhookSecret.secret))
        .where(
            col(WebhookSecret.endpoint_id) == endpoint_id,
            or_(col(WebhookSecret.expires_at).is_(None), col(WebhookSecret.expires_at) > db_now()),
        )
        .order_by(col(WebhookSecret.created_at).desc(), col(WebhookSecret.id).desc())
    )
    return list(found.scalars())


async def replay(connection: AsyncConnection, endpoint_id: UUID, project_id: UUID, since: float) -> None:
    """Delivers again every event from this moment on, in seconds since 1970."""
    earlier = select(func.max(col(Outbox.position) + col(Outbox.size) - 1)).where(
        col(Outbox.project_id) == project_id, col(Outbox.at) < since, col(Outbox.position).is_not(None)
    )
    stream = await event_feed.stream_of(connection, project_id)
    position = await connection.scalar(earlier) or stream.forgotten_position
    await connection.execute(
        update(WebhookEndpoint)
        .where(col(WebhookEndpoint.id) == endpoint_id, col(WebhookEndpoint.cursor) > position)
        .values(cursor=position, next_attempt_at=None)
    )


async def retry_set_aside(connection: AsyncConnection, endpoint_id: UUID) -> int:
    """Delivers the events again that the endpoint refused; returns how many."""
    asked = await connection.execute(
        update(WebhookSetAside).where(col(WebhookSetAside.endpoint_id) == endpoint_id).values(again=True)
    )
    await connection.execute(
        update(WebhookEndpoint).where(col(WebhookEndpoint.id) == endpoint_id).values(next_attempt_at=None)
    )
    return asked.rowcount


async def due(connection: AsyncConnection, owner: str, without: Collection[UUID], most: int) -> Sequence[UUID]:
    """Endpoints that have something to deliver now and that no other process delivers to."""
    now = db_now()
    table = WebhookEndpoint
    again = exists().where(col(WebhookSetAside.endpoint_id) == col(table.id), col(WebhookSetAside.again).is_(True))
    found = await connection.execute(
        select(col(table.id))
        .join(EventStream, col(EventStream.project_id) == col(table.project_id))
        .where(
            col(table.state) == EndpointState.ACTIVE.value,
            or_(col(table.cursor) < col(EventStream.last_position), again),
            or_(
                col(table.next_attempt_at).is_(None),
                col(table.next_attempt_at) <= now,
                col(table.next_attempt_at) > now + LONGEST_WAIT_SECONDS,  # the clock was set back
            ),
            _free_for(owner),
            col(table.id).not_in(without),
        )
        # Those that have waited longest for a place.
        .order_by(func.coalesce(col(table.lease_until), col(table.created_at)), col(table.id))
        .limit(most)
    )
    return list(found.scalars())


async def claim(connection: AsyncConnection, endpoint_id: UUID, owner: str, lease_seconds: float) -> Endpoint | None:
    """Claims an endpoint, or renews the claim; None if another process has it, or it is not active."""
    table = WebhookEndpoint
    now = db_now()
    claimed = await connection.execute(
        update(table)
        .where(
            col(table.id) == endpoint_id,
            col(table.state) == EndpointState.ACTIVE.value,
            _free_for(owner),
        )
        .values(lease_owner=owner, lease_until=now + lease_seconds)
        .returning(
            col(table.project_id),
            col(table.url),
            col(table.types),
            col(table.cursor),
            col(table.refused_in_a_row),
            col(table.failures),
        )
    )
    row = claimed.first()
    if row is None:
        return None
    return Endpoint(
        endpoint_id,
        row.project_id,
        row.url,
        frozenset((row.types or "").split()),
        row.cursor,
        row.refused_in_a_row,
        row.failures,
    )


async def ahead(connection: AsyncConnection, endpoint: Endpoint) -> Ahead:
    """In one statement. Nothing, if the project was deleted meanwhile."""
    again = select(func.min(col(WebhookSetAside.position))).where(
        col(WebhookSetAside.endpoint_id) == endpoint.id, col(WebhookSetAside.again).is_(True)
    )
    found = await connection.execute(
        select(
            col(EventStream.last_position), col(EventStream.forgotten_position), again.scalar_subquery().label("again")
        ).where(col(EventStream.project_id) == endpoint.project_id)
    )
    row = found.first()
    return Ahead(0, 0, None) if row is None else Ahead(row.last_position, row.forgotten_position, row.again)


async def renew(connection: AsyncConnection, owner: str, lease_seconds: float) -> None:
    """Renews every claim of this owner."""
    await connection.execute(
        update(WebhookEndpoint)
        .where(col(WebhookEndpoint.lease_owner) == owner)
        .values(lease_until=db_now() + lease_seconds)
    )


async def release(connection: AsyncConnection, endpoint_id: UUID, owner: str) -> None:
    """Ends a claim, and notes when: those that had a place last come last."""
    await connection.execute(
        update(WebhookEndpoint)
        .where(col(WebhookEndpoint.id) == endpoint_id, col(WebhookEndpoint.lease_owner) == owner)
        .values(lease_owner=None, lease_until=db_now())
    )


SUCCESS: Mapping[str, Any] = {
    "failing_since": None,
    "failures": 0,
    "next_attempt_at": None,
    "last_error": None,
    "refused_in_a_row": 0,
}


async def settle(connection: AsyncConnection, endpoint: Endpoint, owner: str, until: int, **values: Any) -> bool:
    """Moves the cursor to `until`, under the claim. False: the claim is lost, or a replay has moved the cursor."""
    changed = await connection.execute(
        update(WebhookEndpoint).where(*_mine(endpoint, owner)).values(cursor=until, **values)
    )
    return changed.rowcount == 1


async def note_failure(
    connection: AsyncConnection, endpoint: Endpoint, owner: str, delay_seconds: float, status: int | None, error: str
) -> float:
    """Notes a failed POST; the next is due after `delay_seconds`. Returns for how many seconds the endpoint has failed
    now; 0 if the claim is lost."""
    table = WebhookEndpoint
    failed = await connection.execute(
        update(table)
        .where(*_mine(endpoint, owner))
        .values(
            failing_since=func.coalesce(col(table.failing_since), db_now()),
            failures=col(table.failures) + 1,
            next_attempt_at=db_now() + delay_seconds,
            last_status=status,
            last_error=error,
        )
    )
    if failed.rowcount == 0:
        return 0.0
    since = select(db_now() - col(table.failing_since)).where(col(table.id) == endpoint.id)
    return float(await connection.scalar(since) or 0.0)


async def disable(connection: AsyncConnection, endpoint_id: UUID) -> bool:
    """Delivers no more until a person activates the endpoint; returns whether it was active."""
    changed = await connection.execute(
        update(WebhookEndpoint)
        .where(col(WebhookEndpoint.id) == endpoint_id, col(WebhookEndpoint.state) == EndpointState.ACTIVE.value)
        .values(state=EndpointState.DISABLED.value)
    )
    return changed.rowcount == 1


async def count_set_aside(connection: AsyncConnection, endpoint: Endpoint) -> int:
    """Events that the endpoint refused and that can still be delivered; forgets those past their retention."""
    stream = await event_feed.stream_of(connection, endpoint.project_id)
    mine = col(WebhookSetAside.endpoint_id) == endpoint.id
    await connection.execute(
        delete(WebhookSetAside).where(mine, col(WebhookSetAside.position) <= stream.forgotten_position)
    )
    return await connection.scalar(select(func.count()).select_from(WebhookSetAside).where(mine)) or 0


def _free_for(owner: str) -> ColumnElement[bool]:
    """No other process has the endpoint. A lease that ends later than any can was given before the clock was set
    back."""
    has, until, now = col(WebhookEndpoint.lease_owner), col(WebhookEndpoint.lease_until), db_now()
    return or_(has.is_(None), has == owner, until < now, until > now + LONGEST_LEASE_SECONDS)


def _mine(endpoint: Endpoint, owner: str) -> tuple[ColumnElement[bool], ...]:
    table = WebhookEndpoint
    return (
        col(table.id) == endpoint.id,
        col(table.lease_owner) == owner,
        col(table.cursor) == endpoint.cursor,
    )

"""The audit: who did what, on what, from where, with what result. Entries are only added.

An entry is written in the transaction of the change, so there is never one without the other. No role of a service may
change or delete one; `vashsender audit forget` deletes old ones, with a role that may do nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from shared.ledger.database import db_now
from shared.ledger.tenants import AuditEntry

Via = Literal["api", "page", "command"]
DONE = "done"
FORGET_ROWS = 10_000
"""Entries that one transaction deletes."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who does something, and from where."""

    via: Via
    #: The id of a key; of a command, the user of the operating system.
    id: str
    #: The name of the key; of a command, the machine.
    name: str
    #: Where the request comes from; empty for a command.
    address: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry. `at` is in seconds since 1970."""

    id: int
    at: float
    project_id: UUID | None
    via: Via
    actor: str
    actor_name: str
    action: str
    target: str
    address: str
    result: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which entries, newest first."""

    #: None: of every project, and of none.
    project_id: UUID | None = None
    actor: str | None = None
    since: float | None = None
    until: float | None = None
    #: Only those with smaller ids.
    below: int | None = None
    limit: int = 100


async def record(
    connection: AsyncConnection,
    actor: Actor,
    action: str,
    *,
    target: str = "",
    project_id: UUID | None = None,
    result: str = DONE,
) -> None:
    """Adds an entry in the current transaction. The target must not contain a recipient's address."""
    values = {
        "project_id": project_id,
        "via": actor.via,
        "actor": actor.id[:200],
        "actor_name": actor.name[:200],
        "action": action[:200],
        "target": target[:500],
        "address": actor.address[:64],
        "result": result[:100],
    }
    await connection.execute(_ADD, values)


_ADD = insert(AuditEntry).values(at=db_now())


async def list_entries(connection: AsyncConnection, wanted: Wanted) -> Sequence[Entry]:
    """One page of entries."""
    query = select(AuditEntry.__table__)  # type: ignore[attr-defined]
    if wanted.project_id is not None:
        query = query.where(col(AuditEntry.project_id) == wanted.project_id)
    if wanted.actor is not None:
        query = query.where(col(AuditEntry.actor) == wanted.actor)
    if wanted.since is not None:
        query = query.where(col(AuditEntry.at) >= wanted.since)
    if wanted.until is not None:
        query = query.where(col(AuditEntry.at) < wanted.until)
    if wanted.below is not None:
        query = query.where(col(AuditEntry.id) < wanted.below)
    found = await connection.execute(query.order_by(col(AuditEntry.id).desc()).limit(wanted.limit))
    return [Entry(**row._mapping) for row in found]


async def forget(connection: AsyncConnection, older_than_seconds: float) -> int:
    """Deletes up to FORGET_ROWS entries that are older than this; returns how many. Repeat it until it is fewer."""
    old = (
        select(col(AuditEntry.id))
        .where(col(AuditEntry.at) < db_now() - older_than_seconds)
        .order_by(col(AuditEntry.at))
        .limit(FORGET_ROWS)
    )
    return (await connection.execute(delete(AuditEntry).where(col(AuditEntry.id).in_(old)))).rowcount

"""Suppressions: addresses to which a project does not write."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from shared.addresses import Address
from shared.ledger import rows
from shared.ledger.database import clock
from shared.ledger.models import Suppression

Reason = Literal["manual", "unsubscribed", "bounced", "complained"]
AnyReason = Literal["manual", "unsubscribed", "bounced", "complained", "erased"]
"""Erased people have no address: see shared.ledger.hashed."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An address to suppress, and why."""

    address: Address
    reason: Reason
    detail: str | None = None
    campaign_id: UUID | None = None  # the campaign that led to it


async def suppress(connection: AsyncConnection, project_id: UUID, entries: Sequence[Entry]) -> int:
    """Suppresses addresses that differ from each other; returns how many were not suppressed before."""
    now = await clock(connection)
    # A suppression in doubt may be undone, and must not stand in the way of one that is certain.
    keys = [entry.address.key for entry in entries]
    await connection.execute(
        delete(Suppression).where(
            col(Suppression.project_id) == project_id,
            col(Suppression.provisional).is_(True),
            col(Suppression.email_key).in_(keys),
        )
    )
    added = await connection.execute(
        rows.insert_missing(connection, Suppression).returning(col(Suppression.id)),
        [
            {
                "project_id": project_id,
                "email": entry.address.email,
                "email_key": entry.address.key,
                "reason": entry.reason,
                "detail": entry.detail,
                "campaign_id": entry.campaign_id,
                "created_at": now,
            }
            for entry in entries
        ],
    )
    return len(added.all())

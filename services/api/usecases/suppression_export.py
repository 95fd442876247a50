"""A project's suppressions as a file. Whatever their number, they are read and sent in slices."""

from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Row, select
from sqlmodel import col

from services.api.shapes.common import moment
from services.api.usecases import export_lines
from services.api.usecases.export_lines import Format, Rows, Table, cell
from services.api.usecases.suppressions import SHOWN
from shared.ledger.database import Ledger
from shared.ledger.models import Suppression
from shared.ledger.suppressions import AnyReason

SLICE_ROWS = 2_000
"""Rows read by one transaction, and held in memory at once."""

COLUMNS = ("id", "email", "reason", "detail", "campaign_id", "provisional", "created_at")


def lines(ledger: Ledger, project_id: UUID, reason: AnyReason | None, file_format: Format) -> AsyncIterator[bytes]:
    """Suppressions in the order in which they were added, as lines of CSV with a header, or of NDJSON. Erased people
    have no address."""
    query = select(*(getattr(Suppression, name) for name in COLUMNS)).where(
        col(Suppression.project_id) == project_id, SHOWN
    )
    if reason is not None:
        query = query.where(col(Suppression.reason) == reason)
    query = query.order_by(col(Suppression.id)).limit(SLICE_ROWS)

    async def read(after: int) -> Rows:
        async with ledger.read() as connection:
            return (await connection.execute(query.where(col(Suppression.id) > after))).all()

    return export_lines.lines(Table(COLUMNS, _cells, _fields, _length), read, file_format)


def _length(row: Row[Any]) -> int:
    return len(row.detail or "")


def _cells(row: Row[Any]) -> Sequence[object]:
    return (
        row.id,
        cell(row.email),
        row.reason,
        cell(row.detail),
        row.campaign_id or "",
        str(bool(row.provisional)).lower(),
        f"{moment(row.created_at).replace(tzinfo=None).isoformat()}Z",
    )


def _fields(row: Row[Any]) -> dict[str, object]:
    return {
        "id": row.id,
        "email": row.email,
        "reason": row.reason,
        "detail": row.detail,
        "campaign_id": row.campaign_id and str(row.campaign_id),
        "provisional": bool(row.provisional),
        "created_at": moment(row.created_at),
    }

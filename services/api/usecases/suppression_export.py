"""A project's suppressions as a file. Whatever their number, they are read and sent in slices."""

from collections.abc import AsyncIterator, Sequence
from uuid import UUID

from sqlalchemy import select
from sqlmodel import col

from services.api.shapes.common import moment
from services.api.usecases import export_lines
from services.api.usecases.export_lines import Format, Rows, Table, cell, written
from services.api.usecases.suppressions import SHOWN
from shared.ledger.database import Ledger
from shared.ledger.direct import AnyRow
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


def _length(row: AnyRow) -> int:
    return len(row.detail or "")


def _cells(row: AnyRow) -> Sequence[object]:
    id_, email, reason, detail, campaign_id, provisional, created_at = row
    return (
        id_,
        cell(email),
        reason,
        detail and cell(detail),
        campaign_id,
        "true" if provisional else "false",
        written(created_at),
    )


def _fields(row: AnyRow) -> dict[str, object]:
    id_, email, reason, detail, campaign_id, provisional, created_at = row
    return {
        "id": id_,
        "email": email,
        "reason": reason,
        "detail": detail,
        "campaign_id": campaign_id,
        "provisional": bool(provisional),
        "created_at": moment(created_at),
    }

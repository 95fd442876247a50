"""A project's suppressions as a file. Whatever their number, they are read and sent in slices."""

from asyncio import sleep
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import Row, select
from sqlmodel import col

from services.api.shapes.common import moment
from services.api.usecases.export_lines import Format, cell, csv_lines
from services.api.usecases.suppressions import SHOWN
from shared.ledger.database import Ledger
from shared.ledger.models import Suppression
from shared.ledger.suppressions import AnyReason

SLICE_ROWS = 2_000
"""Rows read by one transaction, and held in memory at once."""

PART_ROWS = 200
"""Rows written at once. Other requests run in between."""

COLUMNS = ("id", "email", "reason", "detail", "campaign_id", "provisional", "created_at")


async def lines(
    ledger: Ledger, project_id: UUID, reason: AnyReason | None, file_format: Format
) -> AsyncIterator[bytes]:
    """Suppressions in the order in which they were added, as lines of CSV with a header, or of NDJSON. Erased people
    have no address."""
    write = _table if file_format == "csv" else _objects
    if file_format == "csv":
        yield csv_lines([COLUMNS]).encode()
    query = select(*(getattr(Suppression, name) for name in COLUMNS)).where(
        col(Suppression.project_id) == project_id, SHOWN
    )
    if reason is not None:
        query = query.where(col(Suppression.reason) == reason)
    after = 0
    while True:
        async with ledger.read() as connection:
            rows = (
                await connection.execute(
                    query.where(col(Suppression.id) > after).order_by(col(Suppression.id)).limit(SLICE_ROWS)
                )
            ).all()
        for start in range(0, len(rows), PART_ROWS):
            yield write(rows[start : start + PART_ROWS])
            await sleep(0)
        if len(rows) < SLICE_ROWS:
            return
        after = rows[-1].id


def _table(rows: Sequence[Row[Any]]) -> bytes:
    return csv_lines(
        (
            row.id,
            cell(row.email),
            row.reason,
            cell(row.detail),
            row.campaign_id or "",
            str(bool(row.provisional)).lower(),
            f"{moment(row.created_at).replace(tzinfo=None).isoformat()}Z",
        )
        for row in rows
    ).encode()


def _objects(rows: Sequence[Row[Any]]) -> bytes:
    return b"".join(
        orjson.dumps(
            {
                "id": row.id,
                "email": row.email,
                "reason": row.reason,
                "detail": row.detail,
                "campaign_id": row.campaign_id and str(row.campaign_id),
                "provisional": bool(row.provisional),
                "created_at": moment(row.created_at),
            },
            option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE,
        )
        for row in rows
    )

"""A campaign's recipients with their results as a file. Whatever its size, it is read and sent in slices."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import Row

from services.api.shapes.common import moment
from services.api.shapes.recipients import RecipientOut
from services.api.usecases import export_lines, recipients
from services.api.usecases.campaign_row import CampaignRef
from services.api.usecases.export_lines import Format, Rows, Table, cell
from services.api.usecases.provider_waits import waiting_for
from services.api.usecases.recipients import Wanted
from shared.ledger.database import Ledger

SLICE_ROWS, SLICE_BYTES = 2_000, 1_000_000
"""Rows read by one transaction, and held in memory at once, and about how much data they have: each up to 64 KB."""

COLUMNS = tuple(RecipientOut.model_fields)


def lines(ledger: Ledger, campaign: CampaignRef, wanted: Wanted, file_format: Format) -> AsyncIterator[bytes]:
    """Recipients in the order of import, as lines of CSV with a header, or of NDJSON. Raises NotFoundError.

    Each slice is as of the moment it is read: of a campaign that is being sent, later lines are newer."""
    first = replace(wanted, limit=SLICE_ROWS, data_bytes=SLICE_BYTES)

    async def read(after: int) -> Rows:
        async with ledger.read() as connection:
            return await recipients.read(connection, campaign, replace(first, after=max(after, first.after)))

    return export_lines.lines(Table(COLUMNS, _cells, _fields, _length), read, file_format)


def _length(row: Row[Any]) -> int:
    return len(row.data or "")


def _cells(row: Row[Any]) -> Sequence[object]:
    return (
        row.id,
        cell(row.email),
        row.data or "{}",
        row.status,
        row.attempts,
        _written(row.next_attempt_at),
        row.smtp_code,
        row.enhanced_code,
        cell(row.reply),
        cell(row.relay),
        cell(row.queue_id),
        _written(row.sent_at),
        cell(waiting_for(row)),
    )


def _fields(row: Row[Any]) -> dict[str, object]:
    return {
        "id": row.id,
        "email": row.email,
        "data": orjson.Fragment(row.data or "{}"),
        "status": row.status,
        "attempts": row.attempts,
        "next_attempt_at": _moment(row.next_attempt_at),
        "smtp_code": row.smtp_code,
        "enhanced_code": row.enhanced_code,
        "reply": row.reply,
        "relay": row.relay,
        "queue_id": row.queue_id,
        "sent_at": _moment(row.sent_at),
        "waiting_for": waiting_for(row),
    }


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else moment(seconds)


def _written(seconds: float | None) -> str | None:
    # In half the time of `isoformat`.
    return None if seconds is None else orjson.dumps(moment(seconds), option=orjson.OPT_UTC_Z)[1:-1].decode()

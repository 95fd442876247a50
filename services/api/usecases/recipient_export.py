"""A campaign's recipients with their results as a file. Whatever its size, it is read and sent in slices."""

from asyncio import sleep
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import Row

from services.api.shapes.common import moment
from services.api.shapes.recipients import RecipientOut
from services.api.usecases import recipients
from services.api.usecases.campaign_row import CampaignRef
from services.api.usecases.export_lines import Format, cell, csv_lines
from services.api.usecases.provider_waits import waiting_for
from services.api.usecases.recipients import Wanted
from shared.ledger.database import Ledger

SLICE_ROWS = 200
"""Rows read by one transaction, and held in memory at once: each may have 64 KB of data."""

PART_ROWS = 10
"""Rows written at once. Other requests run in between: that much takes up to 20 ms."""

COLUMNS = tuple(RecipientOut.model_fields)


async def lines(ledger: Ledger, campaign: CampaignRef, wanted: Wanted, file_format: Format) -> AsyncIterator[bytes]:
    """Recipients in the order of import, as lines of CSV with a header, or of NDJSON. Raises NotFoundError.

    Each slice is as of the moment it is read: of a campaign that is being sent, later lines are newer."""
    wanted = replace(wanted, limit=SLICE_ROWS)
    write = _table if file_format == "csv" else _objects
    if file_format == "csv":
        yield csv_lines([COLUMNS]).encode()
    while True:
        async with ledger.read() as connection:
            rows = (await recipients.read(connection, campaign, wanted))[:SLICE_ROWS]
        for start in range(0, len(rows), PART_ROWS):
            yield write(rows[start : start + PART_ROWS])
            await sleep(0)
        if len(rows) < SLICE_ROWS:
            return
        wanted = replace(wanted, after=rows[-1].id)


def _table(rows: Sequence[Row[Any]]) -> bytes:
    return csv_lines(
        (
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
        for row in rows
    ).encode()


def _objects(rows: Sequence[Row[Any]]) -> bytes:
    return b"".join(
        orjson.dumps(
            {
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
            },
            option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE,
        )
        for row in rows
    )


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else moment(seconds)


def _written(seconds: float | None) -> str | None:
    return None if seconds is None else f"{moment(seconds).replace(tzinfo=None).isoformat()}Z"

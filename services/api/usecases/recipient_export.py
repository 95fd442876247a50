"""A campaign's recipients with their results as a file. Whatever its size, it is read and sent in slices."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import orjson

from services.api.shapes.common import moment
from services.api.shapes.recipients import RecipientOut
from services.api.usecases import export_lines, recipients
from services.api.usecases.campaign_row import CampaignRef
from services.api.usecases.export_lines import Format, Rows, Table, cell, written
from services.api.usecases.provider_waits import waiting_for
from services.api.usecases.recipients import Wanted
from shared.ledger.database import Ledger
from shared.ledger.direct import AnyRow
from shared.ledger.states import RecipientStatus

SLICE_ROWS, SLICE_BYTES = 2_000, 1_000_000
"""Rows read by one transaction, and held in memory at once, and about how much data they have: each up to 64 KB."""

COLUMNS = tuple(RecipientOut.model_fields)
_DATA = COLUMNS.index("data")


def lines(ledger: Ledger, campaign: CampaignRef, wanted: Wanted, file_format: Format) -> AsyncIterator[bytes]:
    """Recipients in the order of import, as lines of CSV with a header, or of NDJSON. Raises NotFoundError.

    Each slice is as of the moment it is read: of a campaign that is being sent, later lines are newer."""
    first = replace(wanted, limit=SLICE_ROWS, data_bytes=SLICE_BYTES)

    async def read(after: int) -> Rows:
        async with ledger.read() as connection:
            return await recipients.read(connection, campaign, replace(first, after=max(after, first.after)))

    return export_lines.lines(Table(COLUMNS, _cells, _fields, _length), read, file_format)


def _length(row: AnyRow) -> int:
    return len(row[_DATA] or "")


def _cells(row: AnyRow) -> Sequence[object]:
    # Unpacked at once, because to look up its columns by name takes longer than to write them.
    id_, email, data, status, attempts, next_at, code, enhanced, reply, relay, queue_id, sent_at = row
    return (
        id_,
        cell(email),
        data or "{}",
        status,
        attempts,
        None if next_at is None else written(next_at),
        code,
        enhanced and cell(enhanced),
        reply and cell(reply),
        relay and cell(relay),
        queue_id and cell(queue_id),
        None if sent_at is None else written(sent_at),
        None if status != RecipientStatus.DEFERRED else cell(waiting_for(row)),
    )


def _fields(row: AnyRow) -> dict[str, object]:
    id_, email, data, status, attempts, next_at, code, enhanced, reply, relay, queue_id, sent_at = row
    return {
        "id": id_,
        "email": email,
        "data": orjson.Fragment(data or "{}"),
        "status": status,
        "attempts": attempts,
        "next_attempt_at": None if next_at is None else moment(next_at),
        "smtp_code": code,
        "enhanced_code": enhanced,
        "reply": reply,
        "relay": relay,
        "queue_id": queue_id,
        "sent_at": None if sent_at is None else moment(sent_at),
        "waiting_for": None if status != RecipientStatus.DEFERRED else waiting_for(row),
    }

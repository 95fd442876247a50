"""The audit: shown in pages, and exported as a stream."""

from collections.abc import AsyncIterator
from dataclasses import replace

from sqlalchemy.ext.asyncio import AsyncConnection

from services.api.shapes.audit import AuditOut
from services.api.shapes.common import Page
from services.api.usecases.export_lines import Format, cell, csv_lines
from shared.ledger import audit
from shared.ledger.audit import Wanted
from shared.ledger.database import Ledger

EXPORT_ROWS = 1000


async def list_entries(connection: AsyncConnection, wanted: Wanted) -> Page[AuditOut]:
    """Newest first."""
    found = await audit.list_entries(connection, replace(wanted, limit=wanted.limit + 1))
    page = found[: wanted.limit]
    following = str(page[-1].id) if len(found) > wanted.limit else None
    return Page(data=[AuditOut.model_validate(one) for one in page], next_cursor=following)


async def export(ledger: Ledger, wanted: Wanted, file_format: Format) -> AsyncIterator[str]:
    """Every entry, newest first, as lines of CSV with a header, or of NDJSON. Each page is read on its own."""
    if file_format == "csv":
        yield csv_lines([list(AuditOut.model_fields)])
    below = wanted.below
    while True:
        async with ledger.read() as connection:
            page = await audit.list_entries(connection, replace(wanted, below=below, limit=EXPORT_ROWS))
        rows = [AuditOut.model_validate(one) for one in page]
        if file_format == "csv":
            yield csv_lines([cell(value) for value in row.model_dump(mode="json").values()] for row in rows)
        else:
            yield "".join(row.model_dump_json() + "\n" for row in rows)
        if len(page) < EXPORT_ROWS:
            return
        below = page[-1].id

"""Whether changed content fits the recipients that are stored already."""

import asyncio
from collections.abc import Sequence
from uuid import UUID

import orjson
from sqlalchemy import Row, select
from sqlmodel import col

from services.api.usecases import content
from services.api.usecases.errors import RefusedError, invalid
from shared.ledger.database import Ledger
from shared.ledger.in_order import IN_ORDER, NEVER_SORT, recipients_after
from shared.ledger.models import Recipient
from shared.templates import Content
from shared.templates.values import is_blank

CHUNK_ROWS = 1000
"""Read at a time: their fields may weigh 64 KB each."""


async def require_fit(ledger: Ledger, campaign_id: UUID, compiled: Content) -> None:
    """Raises UnknownFieldError or InvalidError for the first recipient to whom this content could not be sent. Reads in
    chunks, each in its own transaction, so that a large list holds up no one."""
    after: int | None = 0 if compiled.needs else None
    while after is not None:
        async with ledger.read() as connection:
            if connection.dialect.name == "postgresql":
                await connection.execute(NEVER_SORT)
            rows = (
                await connection.execute(
                    select(col(Recipient.id), col(Recipient.email), col(Recipient.data))
                    .where(recipients_after(campaign_id, after))
                    .order_by(*IN_ORDER)
                    .limit(CHUNK_ROWS)
                )
            ).all()
        if refusal := await asyncio.to_thread(_first_refusal, rows, compiled):
            raise refusal
        after = rows[-1].id if len(rows) == CHUNK_ROWS else None


def _first_refusal(rows: Sequence[Row[int, str, str | None]], compiled: Content) -> RefusedError | None:
    for row in rows:
        data = orjson.loads(row.data) if row.data else {}
        problem = compiled.problem(data)
        if problem is None:
            continue
        use = compiled.fields[problem.field]
        if use.required and is_blank(data.get(use.name)):
            return content.unknown_field(use, f"{row.email} has no value for it")
        detail = f"does not fit a stored recipient, {row.email}: {problem.message}"
        return invalid(f"#/{use.part}", detail, line=use.line, column=use.column, field=use.name, email=row.email)
    return None

"""What an import tells of itself."""

from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from pydantic import BaseModel, Field
from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from services.api.problems import not_found
from services.api.shapes import moment
from shared.ledger.models import Import
from shared.ledger.states import ImportState


class LineProblemOut(BaseModel):
    line: int = Field(description="Of the file, from 1; for JSON the number of the item.", examples=[17])
    error: str = Field(examples=["The email address has no domain."])
    value: str | None = Field(None, description="What stood there as the address.", examples=["ann@"])


class ImportOut(BaseModel):
    id: int
    campaign_id: UUID
    format: str
    state: ImportState = Field(description="`undoing`: its rows are being taken out again.")
    lines: int = Field(description="Recipients the file held: accepted, duplicates and invalid together.")
    accepted: int
    duplicates: int
    invalid: int
    problems: list[LineProblemOut] = Field(description="The first 1000 lines that were left out; the counts are exact.")
    error: str | None
    created_at: datetime | None
    updated_at: datetime | None
    finished_at: datetime | None


async def find_import(connection: AsyncConnection, campaign_id: UUID, import_id: int) -> Row[Any]:
    """An import of a campaign. Raises Problem 404."""
    found = await connection.execute(
        select(Import.__table__).where(col(Import.id) == import_id, col(Import.campaign_id) == campaign_id)  # type: ignore[attr-defined]
    )
    row = found.first()
    if row is None:
        raise not_found("import with this id in this campaign")
    return row


def shown(row: Row[Any]) -> ImportOut:
    """An import as it is shown."""
    names = ("id", "campaign_id", "format", "state", "lines", "accepted", "duplicates", "invalid", "error")
    return ImportOut(
        **{name: getattr(row, name) for name in names},
        problems=[LineProblemOut(**problem) for problem in orjson.loads(row.problems)],
        created_at=moment(row.created_at),
        updated_at=moment(row.updated_at),
        finished_at=moment(row.finished_at),
    )

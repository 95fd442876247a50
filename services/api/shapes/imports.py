"""The report of an import."""

from typing import Annotated
from uuid import UUID

import orjson
from pydantic import BaseModel, BeforeValidator, Field

from services.api.shapes.common import Moment, Shown
from shared.ledger.states import ImportState


def _decoded(value: object) -> object:
    return orjson.loads(value) if isinstance(value, str) else value


class LineProblemOut(BaseModel):
    line: int = Field(description="Line of the file, counted from 1. In JSON, the number of the item.", examples=[17])
    error: str = Field(examples=["The email address has no domain."])
    value: str | None = Field(None, description="What the file has as the address.", examples=["ann@"])


class ImportOut(Shown):
    id: int
    campaign_id: UUID
    format: str
    state: ImportState = Field(description="`undoing`: the rows are being removed again.")
    lines: int = Field(description="Recipients in the file: accepted, duplicates and invalid together.")
    accepted: int
    duplicates: int
    invalid: int
    problems: Annotated[list[LineProblemOut], BeforeValidator(_decoded)] = Field(
        description="The first 1000 lines that were left out. The counts cover all of them."
    )
    error: str | None
    created_at: Moment | None
    updated_at: Moment | None
    finished_at: Moment | None

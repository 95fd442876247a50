"""Suppressions: as they come in, and as they are shown."""

from typing import Self
from uuid import UUID

from pydantic import BaseModel, Field, field_validator, model_validator

from services.api.shapes.common import Body, Line, Moment, Shown
from shared.ledger.suppressions import Reason

MAX_AT_ONCE = 10_000


class SuppressionIn(Body):
    email: str = Field(max_length=1000, examples=["ann@example.com"])
    reason: Reason = "manual"
    detail: Line | None = Field(None, examples=["asked by telephone"])


class SuppressionsIn(Body):
    """One address (`email`), or many (`suppressions`)."""

    email: str | None = Field(None, max_length=1000, examples=["ann@example.com"])
    reason: Reason = "manual"
    detail: Line | None = None
    #: Of several wrong ones only the first is named: 30,000 errors would hold up other requests.
    suppressions: list[SuppressionIn] | None = Field(None, min_length=1, max_length=MAX_AT_ONCE, fail_fast=True)

    @model_validator(mode="after")
    def _one_or_many(self) -> Self:
        if (self.email is None) == (self.suppressions is None):
            raise ValueError("give either `email`, or a list of `suppressions`")
        return self


class SuppressionOut(Shown):
    id: int
    email: str = Field(description="Empty: the person was erased.")
    reason: str
    detail: str | None
    campaign_id: UUID | None = Field(description="The campaign that led to it.")
    provisional: bool = Field(description="In doubt: a breaker has tripped, and a person is to decide. Does not count.")
    created_at: Moment | None

    @field_validator("provisional", mode="before")
    @classmethod
    def _is_provisional(cls, value: bool | None) -> bool:
        return bool(value)


class Suppressed(BaseModel):
    added: int
    known: int = Field(description="Addresses that were suppressed already. They keep their reason.")


class RemovedSuppressions(BaseModel):
    removed: int
    matching: int = Field(description="Suppressions that meet the conditions; with `dry_run` none is removed.")

"""Addresses nobody of the project writes to any more."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field, model_validator
from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from services.api.auth import JsonRoute, key_required
from services.api.context import ApiDep, ProjectDep
from services.api.idempotency import OnceDep
from services.api.problems import Problem, not_found
from services.api.shapes import Body, Line, Page, moment
from shared.addresses import Address, AddressError, parse_address
from shared.ledger.database import clock
from shared.ledger.models import Suppression

MAX_AT_ONCE = 10_000

Reason = Literal["manual", "unsubscribed", "bounced", "complained"]

router = APIRouter(prefix="/v1/suppressions", tags=["suppressions"], route_class=JsonRoute, dependencies=[key_required])


class SuppressionIn(Body):
    email: str = Field(max_length=1000, examples=["ann@example.com"])
    reason: Reason = "manual"
    detail: Line | None = Field(None, examples=["asked by telephone"])


class SuppressionsIn(Body):
    """One address (`email`), or many (`suppressions`)."""

    email: str | None = Field(None, max_length=1000, examples=["ann@example.com"])
    reason: Reason = "manual"
    detail: Line | None = None
    suppressions: list[SuppressionIn] | None = Field(None, min_length=1, max_length=MAX_AT_ONCE)

    @model_validator(mode="after")
    def _one_or_many(self) -> Self:
        if (self.email is None) == (self.suppressions is None):
            raise ValueError("give either `email`, or a list of `suppressions`")
        return self


class SuppressionOut(BaseModel):
    id: int
    email: str
    reason: str
    detail: str | None
    campaign_id: UUID | None = Field(description="The campaign that led to it.")
    created_at: datetime | None


class Suppressed(BaseModel):
    added: int
    known: int = Field(description="These were suppressed before; they keep their reason.")


@router.get("", summary="List suppressed addresses, newest first")
async def list_suppressions(
    api: ApiDep,
    project_id: ProjectDep,
    email: Annotated[str | None, Query(max_length=1000, description="Only this mailbox.")] = None,
    reason: Reason | None = None,
    cursor: Annotated[int | None, Query(ge=1, lt=2**63)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Page[SuppressionOut]:
    query = select(Suppression.__table__).where(col(Suppression.project_id) == project_id)  # type: ignore[attr-defined]
    if email is not None:
        query = query.where(col(Suppression.email_key) == _address_given(email).key)
    if reason is not None:
        query = query.where(col(Suppression.reason) == reason)
    if cursor is not None:
        query = query.where(col(Suppression.id) < cursor)
    async with api.ledger.read() as connection:
        rows = (await connection.execute(query.order_by(col(Suppression.id).desc()).limit(limit + 1))).all()
    names = ("id", "email", "reason", "detail", "campaign_id")
    return Page(
        data=[
            SuppressionOut(**{name: getattr(row, name) for name in names}, created_at=moment(row.created_at))
            for row in rows[:limit]
        ],
        next_cursor=str(rows[limit - 1].id) if len(rows) > limit else None,
    )


@router.post("", response_model=Suppressed, summary="Suppress one address, or many")
async def add(body: SuppressionsIn, api: ApiDep, project_id: ProjectDep, once: OnceDep) -> Response:
    """All or none: an invalid address is an error that points to it. Campaigns in the middle of sending heed it at once
    for everyone whose turn has not come."""
    given = body.suppressions or [SuppressionIn(email=body.email or "", reason=body.reason, detail=body.detail)]
    addresses = _parsed(given, single=body.suppressions is None)
    entries = {
        address.key: {"address": address, "reason": one.reason, "detail": one.detail}
        for address, one in reversed(list(zip(addresses, given, strict=True)))
    }
    async with api.ledger.write() as connection:
        added = await suppress(connection, project_id, list(entries.values()))
        return await once.answer(connection, 200, Suppressed(added=added, known=len(entries) - added))


@router.delete("", status_code=204, summary="Write to an address again")
async def remove(
    api: ApiDep, project_id: ProjectDep, email: Annotated[str, Query(max_length=1000, examples=["ann@example.com"])]
) -> None:
    key = _address_given(email).key
    async with api.ledger.write() as connection:
        gone = await connection.execute(
            delete(Suppression).where(col(Suppression.project_id) == project_id, col(Suppression.email_key) == key)
        )
    if gone.rowcount == 0:
        raise not_found("suppression of this address")


async def suppress(connection: AsyncConnection, project_id: UUID, entries: Sequence[dict[str, Any]]) -> int:
    """Suppresses addresses, each once in `entries` ({address, reason, detail?, campaign_id?}); returns how many were
    not suppressed before."""
    insert = postgresql_insert if connection.dialect.name == "postgresql" else sqlite_insert
    now = await clock(connection)
    added = await connection.execute(
        insert(Suppression).on_conflict_do_nothing().returning(col(Suppression.id)),
        [
            {
                "project_id": project_id,
                "email": entry["address"].email,
                "email_key": entry["address"].key,
                "reason": entry["reason"],
                "detail": entry.get("detail"),
                "campaign_id": entry.get("campaign_id"),
                "created_at": now,
            }
            for entry in entries
        ],
    )
    return len(added.all())


def _parsed(given: Sequence[SuppressionIn], *, single: bool) -> list[Address]:
    addresses = []
    errors = []
    for index, one in enumerate(given):
        try:
            addresses.append(parse_address(one.email))
        except AddressError as error:
            pointer = "#/email" if single else f"#/suppressions/{index}/email"
            errors.append({"pointer": pointer, "detail": error.reason})
    if errors:
        detail = f"{errors[0]['pointer']}: {errors[0]['detail']}"
        raise Problem(422, "invalid", "The request is not valid", detail, errors=errors[:100])
    return addresses


def _address_given(email: str) -> Address:
    try:
        return parse_address(email)
    except AddressError as error:
        raise Problem(
            422,
            "invalid",
            "The request is not valid",
            f"query email: {error.reason}",
            errors=[{"parameter": "query email", "detail": error.reason}],
        ) from None

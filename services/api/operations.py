"""What the machinery does: services, queues, batches."""

import asyncio
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import aio_pika
import orjson
from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from sqlalchemy import select
from sqlmodel import col

from services.api.auth import JsonRoute, key_required
from services.api.context import ApiDep, ProjectDep
from services.api.problems import unavailable
from services.api.shapes import Page, moment
from shared.ledger.database import clock
from shared.ledger.models import Batch, Campaign, ServiceInstance
from shared.ledger.states import BatchState, RecipientStatus
from shared.queues import depths

LOST_SECONDS = 20.0
BROKER_SECONDS = 5.0

router = APIRouter(prefix="/v1", tags=["operations"], route_class=JsonRoute, dependencies=[key_required])


class ServiceOut(BaseModel):
    id: str = Field(examples=["sender-1@mail"])
    service: str
    host: str
    pid: int
    slot: str | None
    slots: int = Field(description="Batches it can hold at once; only senders have any.")
    draining: bool
    alive: bool = Field(description="It was heard of within the last 20 seconds.")
    started_at: datetime | None
    seen_at: datetime | None
    detail: dict[str, Any]


class QueueOut(BaseModel):
    name: str
    exists: bool
    messages: int = Field(description="Waiting to be delivered; what consumers hold is not counted.")
    consumers: int


class BatchOut(BaseModel):
    id: int
    campaign_id: UUID
    state: BatchState
    size: int
    generation: int = Field(description="Raised by every change of hands.")
    owner: str | None
    due_at: datetime | None
    released_at: datetime | None
    claimed_at: datetime | None
    lease_until: datetime | None
    rescues: int
    counts: dict[RecipientStatus, int]


class ListOf(BaseModel):
    """A list that is always whole."""

    next_cursor: None = None


class Services(ListOf):
    data: list[ServiceOut]


class Queues(ListOf):
    data: list[QueueOut]


@router.get("/services", summary="Processes, as far as the ledger has heard of them")
async def services(api: ApiDep) -> Services:
    async with api.ledger.read() as connection:
        table = ServiceInstance.__table__  # type: ignore[attr-defined]
        rows = (await connection.execute(select(table).order_by(table.c.service, table.c.id))).all()
        now = await clock(connection)
    names = ("id", "service", "host", "pid", "slot", "slots", "draining")
    return Services(
        data=[
            ServiceOut(
                **{name: getattr(row, name) for name in names},
                alive=row.seen_at > now - LOST_SECONDS,
                started_at=moment(row.started_at),
                seen_at=moment(row.seen_at),
                detail=orjson.loads(row.detail),
            )
            for row in rows
        ]
    )


@router.get("/queues", summary="Depth and consumers of each queue")
async def queues(api: ApiDep) -> Queues:
    """Asked of the broker by passive declaration, which needs no right beyond that to its virtual host."""
    try:
        async with asyncio.timeout(BROKER_SECONDS):
            found = await depths(api.settings.broker_url, "api queues")
            return Queues(data=[QueueOut(**asdict(depth)) for depth in found])
    except (OSError, aio_pika.exceptions.AMQPError) as error:
        raise unavailable(f"The broker cannot be reached now: {error or type(error).__name__}.") from error


@router.get("/batches", summary="Batches, oldest first")
async def batches(
    api: ApiDep,
    project_id: ProjectDep,
    state: Annotated[list[BatchState] | None, Query(description="Only these; may be repeated.")] = None,
    campaign_id: UUID | None = None,
    cursor: Annotated[int, Query(ge=0, lt=2**63)] = 0,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> Page[BatchOut]:
    query = (
        select(Batch.__table__)  # type: ignore[attr-defined]
        .join(Campaign.__table__, col(Campaign.id) == col(Batch.campaign_id))  # type: ignore[attr-defined]
        .where(col(Campaign.project_id) == project_id, col(Batch.id) > cursor)
    )
    if state:
        query = query.where(col(Batch.state).in_([one.value for one in state]))
    if campaign_id is not None:
        query = query.where(col(Batch.campaign_id) == campaign_id)
    async with api.ledger.read() as connection:
        rows = (await connection.execute(query.order_by(col(Batch.id)).limit(limit + 1))).all()
    return Page(
        data=[_batch(row) for row in rows[:limit]], next_cursor=str(rows[limit - 1].id) if len(rows) > limit else None
    )


def _batch(row: Any) -> BatchOut:
    names = ("id", "campaign_id", "state", "size", "generation", "owner", "rescues")
    moments = ("due_at", "released_at", "claimed_at", "lease_until")
    return BatchOut(
        **{name: getattr(row, name) for name in names},
        **{name: moment(getattr(row, name)) for name in moments},
        counts={status: getattr(row, status.value) for status in RecipientStatus},
    )

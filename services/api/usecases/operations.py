"""What an operator looks at: services, queues, batches."""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import aio_pika
from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from services.api.shapes.common import Page
from services.api.shapes.operations import BatchOut, QueueOut, ServiceOut
from services.api.usecases.errors import UnavailableError
from services.api.usecases.paging import cut
from shared.ledger.database import clock
from shared.ledger.models import Batch, Campaign, ServiceInstance
from shared.ledger.states import BatchState, RecipientStatus
from shared.queues import depths

BROKER_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which batches, oldest first."""

    states: Sequence[BatchState] = ()  # empty: all
    campaign_id: UUID | None = None
    project_id: UUID | None = None
    after: int = 0  # only those with larger ids
    limit: int = 100


async def services(connection: AsyncConnection, lost_seconds: float) -> list[ServiceOut]:
    """Processes by service and id. One that has not reported for `lost_seconds` is not alive."""
    table = ServiceInstance.__table__  # type: ignore[attr-defined]
    found = await connection.execute(select(table).order_by(table.c.service, table.c.id))
    oldest = await clock(connection) - lost_seconds
    return [ServiceOut.model_validate({**row._asdict(), "alive": row.seen_at > oldest}) for row in found]


async def campaign_names(connection: AsyncConnection, ids: Collection[str]) -> dict[str, str]:
    """Names of campaigns by id. A campaign that was deleted is left out."""
    wanted = [UUID(one) for one in ids]
    found = await connection.execute(select(col(Campaign.id), col(Campaign.name)).where(col(Campaign.id).in_(wanted)))
    return {str(row[0]): row[1] for row in found}


async def queues(broker_url: str) -> list[QueueOut]:
    """Asks the broker by passive declaration, which needs no right but access to the virtual host. Raises
    UnavailableError."""
    try:
        async with asyncio.timeout(BROKER_SECONDS):
            return [QueueOut.model_validate(depth) for depth in await depths(broker_url, "api queues")]
    except (OSError, aio_pika.exceptions.AMQPError) as error:
        raise UnavailableError(f"The broker cannot be reached now: {error or type(error).__name__}.") from error


async def batches(connection: AsyncConnection, wanted: Wanted) -> Page[BatchOut]:
    """Batches of all projects."""
    query = (
        select(Batch.__table__, col(Campaign.project_id))  # type: ignore[attr-defined]
        .join(Campaign.__table__, col(Campaign.id) == col(Batch.campaign_id))  # type: ignore[attr-defined]
        .where(col(Batch.id) > wanted.after)
    )
    if wanted.project_id is not None:
        query = query.where(col(Campaign.project_id) == wanted.project_id)
    if wanted.states:
        query = query.where(col(Batch.state).in_([state.value for state in wanted.states]))
    if wanted.campaign_id is not None:
        query = query.where(col(Batch.campaign_id) == wanted.campaign_id)
    found = await connection.execute(query.order_by(col(Batch.id)).limit(wanted.limit + 1))
    rows, following = cut(found.all(), wanted.limit)
    return Page(data=[_batch(row) for row in rows], next_cursor=following)


def _batch(row: Row[Any]) -> BatchOut:
    counts = {status: getattr(row, status.value) for status in RecipientStatus}
    return BatchOut.model_validate({**row._asdict(), "counts": counts})

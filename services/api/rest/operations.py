"""`/v1/services`, `/v1/queues`, `/v1/batches`: what an operator looks at."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query

from services.api.rest.auth import JsonRoute, key_required
from services.api.shapes.common import Page
from services.api.shapes.operations import BatchOut, Queues, Services
from services.api.usecases import operations
from services.api.usecases.operations import Wanted
from services.api.web.context import ApiDep, ProjectDep
from shared.ledger.states import BatchState

router = APIRouter(prefix="/v1", tags=["operations"], route_class=JsonRoute, dependencies=[key_required])


@router.get("/services", summary="Processes that have reported to the ledger")
async def services(api: ApiDep) -> Services:
    async with api.ledger.read() as connection:
        return Services(data=await operations.services(connection, api.settings.instance_lost_seconds))


@router.get("/queues", summary="Depth and consumers of each queue")
async def queues(api: ApiDep) -> Queues:
    """Asks the broker."""
    return Queues(data=await operations.queues(api.settings.broker_url))


@router.get("/batches", summary="Batches, oldest first")
async def batches(
    project: ProjectDep,
    state: Annotated[list[BatchState] | None, Query(description="Only these states. May be repeated.")] = None,
    campaign_id: UUID | None = None,
    cursor: Annotated[int, Query(ge=0, lt=2**63)] = 0,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> Page[BatchOut]:
    async with project.read() as connection:
        return await operations.batches(connection, project.id, Wanted(state or (), campaign_id, cursor, limit))

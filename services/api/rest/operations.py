"""`/v1/services`, `/v1/queues`, `/v1/batches`: what an operator looks at."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from services.api.rest.auth import JsonRoute, key_required
from services.api.shapes.common import Page
from services.api.shapes.operations import BatchOut, Queues, Services
from services.api.usecases import operations
from services.api.usecases.operations import Wanted
from services.api.web.context import ApiDep
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


class BatchQuery(BaseModel):
    state: list[BatchState] | None = Field(None, description="Only these states. May be repeated.")
    campaign_id: UUID | None = Field(None, description="Only those of this campaign.")
    project_id: UUID | None = Field(None, description="Only those of this project.")
    cursor: int = Field(0, ge=0, lt=2**63)
    limit: int = Field(100, ge=1, le=500)


@router.get("/batches", summary="Batches of all projects, oldest first")
async def batches(api: ApiDep, query: Annotated[BatchQuery, Query()]) -> Page[BatchOut]:
    wanted = Wanted(query.state or (), query.campaign_id, query.project_id, query.cursor, query.limit)
    async with api.ledger.read() as connection:
        return await operations.batches(connection, wanted)

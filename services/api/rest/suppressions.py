"""`/v1/suppressions`: addresses to which a project does not write."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from services.api.rest.auth import JsonRoute, key_required
from services.api.rest.idempotency import Answer, OnceDep
from services.api.shapes.common import Page
from services.api.shapes.suppressions import Reason, Suppressed, SuppressionOut, SuppressionsIn
from services.api.usecases import suppressions
from services.api.usecases.suppressions import Wanted
from services.api.web.context import ProjectDep

router = APIRouter(prefix="/v1/suppressions", tags=["suppressions"], route_class=JsonRoute, dependencies=[key_required])


@router.get("", summary="List suppressed addresses, newest first")
async def list_suppressions(
    project: ProjectDep,
    email: Annotated[str | None, Query(max_length=1000, description="Only this mailbox.")] = None,
    reason: Reason | None = None,
    cursor: Annotated[int | None, Query(ge=1, lt=2**63)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Page[SuppressionOut]:
    async with project.read() as connection:
        return await suppressions.list_suppressions(connection, project.id, Wanted(email, reason, cursor, limit))


@router.post("", response_model=Suppressed, summary="Suppress one address, or many")
async def add(body: SuppressionsIn, project: ProjectDep, once: OnceDep) -> Response:
    """Suppresses all addresses or none: if one is invalid, the error points to it. Campaigns that are being sent leave
    these recipients out from now on."""
    async with project.write() as connection:
        suppressed = await suppressions.add(connection, project.id, body)
        answer = await once.keep(connection, Answer(200, suppressed))
    return answer.response()


@router.delete("", status_code=204, summary="Allow emails to an address again")
async def remove(
    project: ProjectDep, email: Annotated[str, Query(max_length=1000, examples=["ann@example.com"])]
) -> None:
    async with project.write() as connection:
        await suppressions.remove(connection, project.id, email)

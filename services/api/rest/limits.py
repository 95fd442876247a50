"""`/v1/limits`: how many emails the project and each relay may send."""

from typing import Annotated

from fastapi import APIRouter, Path

from services.api.rest.auth import JsonRoute, key_required
from services.api.shapes.limits import LimitIn, LimitOut, Limits
from services.api.usecases import limits
from services.api.web.context import ProjectDep

router = APIRouter(prefix="/v1/limits", tags=["limits"], route_class=JsonRoute, dependencies=[key_required])

Scope = Annotated[str, Path(max_length=200, description="`project`, or `relay:` and a relay's name.")]


@router.get("", summary="The limits of the project and of the relays")
async def list_limits(project: ProjectDep) -> Limits:
    """With the emails that count under each in this hour and day."""
    async with project.read() as connection:
        return Limits(data=await limits.list_limits(connection, project.id))


@router.put("/{scope}", summary="Set the limits of the project or of a relay")
async def put(scope: Scope, body: LimitIn, project: ProjectDep) -> LimitOut:
    """Takes hold within about a second, also of batches that are being sent."""
    async with project.write() as connection:
        return await limits.put(connection, project.id, scope, body)


@router.delete("/{scope}", status_code=204, summary="Remove the limits of the project or of a relay")
async def remove(scope: Scope, project: ProjectDep) -> None:
    async with project.write() as connection:
        await limits.remove(connection, project.id, scope)

"""`/v1/erase`: erases a person."""

from fastapi import APIRouter, Response

from services.api.rest.auth import JsonRoute, key_required
from services.api.rest.idempotency import Answer
from services.api.shapes.erasures import ErasureIn, ErasureOut
from services.api.usecases import erasure
from services.api.web.context import ProjectDep
from services.api.web.scopes import require
from shared.scopes import Scope

router = APIRouter(prefix="/v1", tags=["suppressions"], route_class=JsonRoute, dependencies=[key_required])


@router.post(
    "/erase",
    response_model=ErasureOut,
    responses={202: {"model": ErasureOut, "description": "It is under way. Repeat the request to see how far it is."}},
    summary="Erase a person",
)
async def erase(body: ErasureIn, project: ProjectDep) -> Response:
    """Everything about the person goes from this project, but for the counts of campaigns and a keyed hash, by which
    the person stays suppressed. No email to the person starts later than a second after the answer. Needs no
    Idempotency-Key: a repeated request changes nothing, and says how far it is."""
    person = erasure.whom(body.email, project.hash_roots)
    if body.all_projects:
        require(Scope.OPERATOR, project.key.scopes)
        erased = await erasure.erase_everywhere(project.api.ledger, person)
    else:
        erased = await erasure.erase(project.api.ledger, project.id, person)
    return Answer(200 if erased.state == "done" else 202, erased).response()

"""`/v1/webhooks`: URLs to which the events of a project go.

A secret is shown once, so its answer is not stored: making one takes no Idempotency-Key."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response

from services.api.rest.auth import JsonRoute, key_required
from services.api.rest.idempotency import Answer, OnceDep
from services.api.shapes.common import Page
from services.api.shapes.webhooks import (
    Replayed,
    ReplayIn,
    SetAsideOut,
    WebhookChange,
    WebhookIn,
    WebhookOut,
    WebhookWithSecret,
)
from services.api.usecases import webhooks
from services.api.web.context import Project, ProjectDep

router = APIRouter(prefix="/v1/webhooks", tags=["events"], route_class=JsonRoute, dependencies=[key_required])


@router.get("", summary="List the project's webhooks")
async def list_webhooks(project: ProjectDep) -> Page[WebhookOut]:
    async with project.read() as connection:
        return await webhooks.list_webhooks(connection, project.id)


@router.post("", status_code=201, summary="Create a webhook")
async def create(body: WebhookIn, project: ProjectDep) -> WebhookWithSecret:
    """It gets the events that are written from now on. Keep the secret: it is not shown again."""
    async with project.write() as connection:
        return await webhooks.create(
            connection,
            project.tenant,
            body,
            most=project.api.settings.webhooks_per_project,
            needs_https=_needs_https(project),
        )


@router.get("/{webhook_id}", summary="Show a webhook")
async def show(webhook_id: UUID, project: ProjectDep) -> WebhookOut:
    async with project.read() as connection:
        return await webhooks.show(connection, project.id, webhook_id)


@router.patch("/{webhook_id}", summary="Change, pause or activate a webhook")
async def change(webhook_id: UUID, body: WebhookChange, project: ProjectDep) -> WebhookOut:
    async with project.write() as connection:
        return await webhooks.change(connection, project.id, webhook_id, body, needs_https=_needs_https(project))


@router.delete("/{webhook_id}", status_code=204, summary="Delete a webhook")
async def remove(webhook_id: UUID, project: ProjectDep) -> None:
    async with project.write() as connection:
        await webhooks.remove(connection, project.id, webhook_id)


@router.post("/{webhook_id}/rotate", summary="Give a webhook a new secret")
async def rotate(webhook_id: UUID, project: ProjectDep) -> WebhookWithSecret:
    """For a day, each POST has a signature of the old secret, too."""
    async with project.write() as connection:
        return await webhooks.rotate(connection, project.id, webhook_id)


@router.post("/{webhook_id}/test", status_code=202, response_model=WebhookOut, summary="Send a test event to a webhook")
async def test(webhook_id: UUID, project: ProjectDep, once: OnceDep) -> Response:
    """It takes the way of all events, behind those that wait. `last_success_at`, `last_status` and `last_error` say
    what came of it."""
    async with project.write() as connection:
        answer = await once.keep(connection, Answer(202, await webhooks.test(connection, project.id, webhook_id)))
    return answer.response()


@router.post("/{webhook_id}/replay", status_code=202, response_model=Replayed, summary="Deliver events again")
async def replay(webhook_id: UUID, body: ReplayIn, project: ProjectDep, once: OnceDep) -> Response:
    async with project.write() as connection:
        done = await webhooks.replay(connection, project.id, webhook_id, body)
        answer = await once.keep(connection, Answer(202, done))
    return answer.response()


@router.get("/{webhook_id}/set-aside", summary="List the events that a webhook refused")
async def list_set_aside(
    webhook_id: UUID,
    project: ProjectDep,
    cursor: Annotated[int, Query(ge=0, lt=2**62)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Page[SetAsideOut]:
    async with project.read() as connection:
        return await webhooks.list_set_aside(connection, project.id, webhook_id, cursor, limit)


def _needs_https(project: Project) -> bool:
    return project.api.settings.environment == "production"

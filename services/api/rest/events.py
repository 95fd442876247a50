"""`/v1/events`: what happens to recipients and campaigns, for programs; in pages or as a stream."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Header, Query, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent

from services.api.rest.auth import JsonRoute, key_required
from services.api.shapes.events import EventsPage, EventStreamIn, EventStreamOut
from services.api.usecases import events
from services.api.usecases.errors import EventsGoneError
from services.api.web.context import Project, ProjectDep
from services.api.web.streams import KeyWatch
from shared.ledger import projects
from shared.ledger.database import is_unavailable

LOOK_SECONDS = 0.5
EVENTS_AT_ONCE = 500

router = APIRouter(prefix="/v1/events", tags=["events"], route_class=JsonRoute, dependencies=[key_required])

After = Annotated[int, Query(ge=0, lt=2**62, description="Only events after this position. 0: from the oldest kept.")]
Types = Annotated[
    str,
    Query(
        max_length=1000,
        description="Only these types, separated by commas; `recipient.*` stands for all of recipients.",
        examples=["recipient.failed,campaign.*"],
    ),
]


@router.get("", response_model=EventsPage, summary="List events, oldest first")
async def list_events(
    project: ProjectDep,
    after: After = 0,
    types: Types = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """Events have positions once they are committed, so a reader who always passes `next_cursor` as `after` misses
    none. A page may be empty although later events match: go on until `next_cursor` is `last_position`."""
    chosen = events.chosen_types(types)
    async with project.read() as connection:
        page = await events.read(connection, project.id, after, limit, chosen)
    return Response(orjson.dumps(page), media_type="application/json")


async def _beginning(
    project: ProjectDep,
    after: After = 0,
    types: Types = "",
    last_event_id: Annotated[str | None, Header(max_length=30, pattern=r"^\d{1,18}$")] = None,
) -> AsyncIterator[tuple[int, frozenset[str]]]:
    """Answers 410, 422 or 429 before the stream begins, and holds a place for it until it ends."""
    begin = after if last_event_id is None else int(last_event_id)
    chosen = events.chosen_types(types)
    async with project.read() as connection:
        await events.read(connection, project.id, begin, 1, chosen)
        owner = await projects.find(connection, project_id=project.id)
    assert owner is not None, "its key was valid"
    with project.api.streams.place(owner, project.tenant.limits):
        yield begin, chosen


@router.get("/stream", response_class=EventSourceResponse, summary="Events as server-sent events, as they come")
async def stream(
    begin: Annotated[tuple[int, frozenset[str]], Depends(_beginning)], project: ProjectDep
) -> AsyncIterator[ServerSentEvent]:
    """Each has its type as `event` and its position as `id`, so a browser that reconnects goes on where it was.
    `gone` ends the stream if the reader falls behind the retention. It also ends if the key is no longer valid."""
    after, chosen = begin
    watch = KeyWatch(project)
    while not project.api.stopping.is_set():
        if not await watch.is_valid():
            return
        page = await _next(project, after, chosen)
        if page is None:
            yield ServerSentEvent(raw_data="{}", event="gone")
            return
        for event in page["data"]:
            yield ServerSentEvent(raw_data=orjson.dumps(event).decode(), event=event["type"], id=str(event["position"]))
        has_more, after = int(page["next_cursor"]) > after, int(page["next_cursor"])
        if has_more:
            continue
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                await project.api.stopping.wait()
        except TimeoutError:
            continue


async def _next(project: Project, after: int, types: frozenset[str]) -> dict[str, Any] | None:
    """The next page, an empty one while the database is away; None if events were deleted before they were read."""
    try:
        async with project.read() as connection:
            return await events.read(connection, project.id, after, EVENTS_AT_ONCE, types)
    except EventsGoneError:
        return None
    except Exception as error:
        if not is_unavailable(error):
            raise
        return {"data": [], "next_cursor": str(after)}


@router.get("/settings", summary="Whether the project's events are written")
async def show(project: ProjectDep) -> EventStreamOut:
    async with project.read() as connection:
        return await events.show(connection, project.id)


@router.put("/settings", summary="Have the project's events written, or not")
async def enable(body: EventStreamIn, project: ProjectDep) -> EventStreamOut:
    """Takes hold at once for what begins afterwards, and within a second for batches that are being sent."""
    async with project.write() as connection:
        return await events.enable(connection, project.id, enabled=body.enabled)

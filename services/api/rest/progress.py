"""`/v1/campaigns/{id}/events` and `/timeline`: what happens to a campaign, live and afterwards."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from fastapi.sse import EventSourceResponse, ServerSentEvent

from services.api.rest.auth import JsonRoute, key_required
from services.api.shapes.common import Page
from services.api.shapes.progress import Progress, TimelineEntry
from services.api.usecases import campaign_row, progress
from services.api.usecases.campaign_row import CampaignRef
from services.api.usecases.errors import NotFoundError
from services.api.web.context import CampaignDep, ProjectDep
from services.api.web.streams import KeyWatch, stream_place
from shared.ledger.database import is_unavailable
from shared.ledger.states import FINAL

LOOK_SECONDS = 1.0

router = APIRouter(
    prefix="/v1/campaigns/{campaign_id}", tags=["progress"], route_class=JsonRoute, dependencies=[key_required]
)


async def _existing(campaign: CampaignDep, project: ProjectDep) -> CampaignRef:
    """Answers 404 before the stream begins."""
    async with project.read() as connection:
        await campaign_row.find(connection, campaign)
    return campaign


@router.get(
    "/events",
    response_class=EventSourceResponse,
    dependencies=[Depends(stream_place)],
    summary="Live counts as server-sent events",
)
async def events(
    campaign: Annotated[CampaignRef, Depends(_existing)], project: ProjectDep
) -> AsyncIterator[ServerSentEvent]:
    """Sends `progress` when something has changed, at most once a second. `closed` carries the final counts and ends
    the stream. It also ends if the key is no longer valid."""
    previous: Progress | None = None
    watch = KeyWatch(project)
    while not project.api.stopping.is_set():
        try:
            if not await watch.is_valid():
                return
            async with project.read() as connection:
                now = await progress.look(connection, campaign, previous)
        except NotFoundError:
            return  # it was deleted
        except Exception as error:
            if not is_unavailable(error):
                raise
        else:
            if now.status in FINAL:
                yield ServerSentEvent(raw_data=now.model_dump_json(), event="closed")
                return
            if previous is None or _differ(previous, now):
                yield ServerSentEvent(raw_data=now.model_dump_json(), event="progress")
            previous = now
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                await project.api.stopping.wait()
        except TimeoutError:
            continue


@router.get("/timeline", summary="What happened to a campaign, in words")
async def timeline(
    campaign: CampaignDep,
    project: ProjectDep,
    cursor: Annotated[int, Query(ge=0, lt=2**63)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Page[TimelineEntry]:
    async with project.read() as connection:
        return await progress.timeline(connection, campaign, cursor, limit)


def _differ(one: Progress, other: Progress) -> bool:
    def essence(seen: Progress) -> object:
        limit, current = seen.rates.limit_per_second, seen.rates.current_per_second or 0.0
        return seen.status, seen.reason, seen.blocked_by, seen.counts, limit, current

    return essence(one) != essence(other)

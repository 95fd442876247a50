"""Watching a campaign: live counts as server-sent events, and its timeline."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel, Field
from sqlalchemy import select
from sqlmodel import col

from services.api import campaign_row
from services.api.auth import JsonRoute, key_required
from services.api.context import Api, ApiDep, ProjectDep
from services.api.problems import Problem
from services.api.shapes import CountsOut, Page, RatesOut, moment, summary_of
from shared.ledger.counts import counts
from shared.ledger.database import clock, is_unavailable
from shared.ledger.models import Timeline
from shared.ledger.states import FINAL, CampaignStatus

LOOK_SECONDS = 1.0

router = APIRouter(
    prefix="/v1/campaigns/{campaign_id}", tags=["progress"], route_class=JsonRoute, dependencies=[key_required]
)


class LiveRates(RatesOut):
    current_per_second: float | None = Field(description="Emails sent per second since the last event.")


class Progress(BaseModel):
    """One event."""

    at: datetime | None
    status: CampaignStatus
    reason: str | None
    blocked_by: str | None
    counts: CountsOut
    rates: LiveRates


class TimelineEntry(BaseModel):
    at: datetime | None
    last_at: datetime | None = Field(description="When it happened last; `times` tells how often in a row.")
    kind: str = Field(examples=["paused"])
    text: str = Field(examples=["Paused by request."])
    times: int


async def _existing(campaign_id: UUID, api: ApiDep, project_id: ProjectDep) -> UUID:
    async with api.ledger.read() as connection:
        await campaign_row.find(connection, project_id, campaign_id)
    return campaign_id


_Existing = Annotated[UUID, Depends(_existing)]


@router.get("/events", response_class=EventSourceResponse, summary="Live counts as server-sent events")
async def events(campaign: _Existing, api: ApiDep, project_id: ProjectDep) -> AsyncIterator[ServerSentEvent]:
    """`progress` whenever something changed, at most once a second; `closed` with the last counts ends the stream."""
    previous: Progress | None = None
    while not api.stopping.is_set():
        try:
            progress = await _look(api, project_id, campaign, previous)
        except Problem:
            return  # it was deleted
        except Exception as error:
            if not is_unavailable(error):
                raise
        else:
            if progress.status in FINAL:
                yield ServerSentEvent(raw_data=progress.model_dump_json(), event="closed")
                return
            if previous is None or _differ(previous, progress):
                yield ServerSentEvent(raw_data=progress.model_dump_json(), event="progress")
            previous = progress
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                await api.stopping.wait()
        except TimeoutError:
            continue


@router.get("/timeline", summary="What happened to a campaign, in words")
async def timeline(
    campaign: _Existing,
    api: ApiDep,
    cursor: Annotated[int, Query(ge=0, lt=2**63)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Page[TimelineEntry]:
    async with api.ledger.read() as connection:
        found = await connection.execute(
            select(Timeline.__table__)  # type: ignore[attr-defined]
            .where(col(Timeline.campaign_id) == campaign, col(Timeline.id) > cursor)
            .order_by(col(Timeline.id))
            .limit(limit + 1)
        )
        rows = found.all()
    return Page(
        data=[
            TimelineEntry(at=moment(row.at), last_at=moment(row.last_at), kind=row.kind, text=row.text, times=row.times)
            for row in rows[:limit]
        ],
        next_cursor=str(rows[limit - 1].id) if len(rows) > limit else None,
    )


async def _look(api: Api, project_id: UUID, campaign_id: UUID, previous: Progress | None) -> Progress:
    async with api.ledger.read() as connection:
        row = await campaign_row.find(connection, project_id, campaign_id)
        by_status = await counts(connection, campaign_id)
        now = await clock(connection)
    summary = summary_of(row, by_status, now)
    current = None
    if previous is not None and previous.at is not None:
        seconds = now - previous.at.timestamp()
        current = round((by_status["sent"] - previous.counts.sent) / seconds, 1) if seconds > 0 else None
    return Progress(
        at=moment(now),
        status=row.status,
        reason=row.reason,
        blocked_by=row.blocked_by,
        counts=CountsOut(**by_status),
        rates=LiveRates(**summary["rates"], current_per_second=current),
    )


def _differ(one: Progress, other: Progress) -> bool:
    def telling(progress: Progress) -> object:
        rate = progress.rates.current_per_second or 0.0
        return (
            progress.status,
            progress.reason,
            progress.blocked_by,
            progress.counts,
            progress.rates.limit_per_second,
            rate,
        )

    return telling(one) != telling(other)

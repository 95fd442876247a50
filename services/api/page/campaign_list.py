"""All campaigns, newest first, a page of them at a time; those that move, live."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Annotated
from urllib.parse import urlencode
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from sqlalchemy import select
from sqlmodel import col

from services.api import campaign_row, campaigns
from services.api.context import Api, ApiDep, ProjectDep
from services.api.page import live, render
from services.api.page.live import Parts
from services.api.page.route import PageRoute, SessionDep
from services.api.shapes import CampaignSummary, summary_of
from shared.ledger.counts import counts_of
from shared.ledger.database import clock
from shared.ledger.models import Campaign
from shared.ledger.states import FINAL, CampaignStatus

PAGE_SIZE = 25
FILTERS: Mapping[str, tuple[str, tuple[CampaignStatus, ...] | None]] = {
    "all": ("All", None),
    "moving": (
        "Under way",
        (CampaignStatus.QUEUED, CampaignStatus.SENDING, CampaignStatus.PAUSED, CampaignStatus.STOPPING),
    ),
    "planned": ("Drafts and scheduled", (CampaignStatus.DRAFT, CampaignStatus.SCHEDULED)),
    "closed": ("Closed", FINAL),
}
NEWER = "newer"

router = APIRouter(include_in_schema=False, route_class=PageRoute)
_Show = Annotated[str, Query(pattern=f"^({'|'.join(FILTERS)})$")]


@router.get("/")
async def show(
    request: Request,
    api: ApiDep,
    project_id: ProjectDep,
    show: _Show = "all",
    cursor: UUID | None = None,
    tests: bool = False,
    told: str = "",
) -> Response:
    among = FILTERS[show][1]
    found = await campaigns.list_campaigns(api, project_id, list(among) if among else None, tests, cursor, PAGE_SIZE)
    parts = _parts({one.id: one for one in found.data}, [one.id for one in found.data], newer=False)
    here = {"show": show, **({"tests": "true"} if tests else {})}
    following = {
        "ids": [str(one.id) for one in found.data],
        "seen": parts.seen(),
        # Only the first page tells of newer ones: on the others there are some anyway.
        **({} if cursor else {**here, "first": str(found.data[0].id) if found.data else ""}),
    }
    return render.page(
        request,
        "campaigns.html",
        section="campaigns",
        notice="The draft was deleted." if told == "deleted" else "",
        campaigns=found.data,
        parts=parts.html,
        live=f"/live/campaigns?{urlencode(following, doseq=True)}",
        filters=[(word, f"/?{urlencode({**here, 'show': name})}", name == show) for name, (word, _) in FILTERS.items()],
        tests=tests,
        toggle_tests=f"/?{urlencode({'show': show, **({} if tests else {'tests': 'true'})})}",
        older=f"/?{urlencode({**here, 'cursor': found.next_cursor})}" if found.next_cursor else "",
        newest=f"/?{urlencode(here)}" if cursor else "",
    )


@router.get("/live/campaigns", response_class=EventSourceResponse)
async def follow(
    api: ApiDep,
    project_id: ProjectDep,
    session: SessionDep,
    ids: Annotated[list[UUID], Query(max_length=PAGE_SIZE)] = [],  # noqa: B006 - FastAPI copies it
    show: _Show = "all",
    tests: bool = False,
    seen: str = "",
    first: str | None = None,
) -> AsyncIterator[ServerSentEvent]:
    known: dict[UUID, CampaignSummary] = {}

    async def look() -> Parts:
        moving = [one for one in ids if one not in known or known[one].status not in FINAL]
        async with api.ledger.read() as connection:
            rows = await connection.execute(
                select(*campaign_row.COLUMNS).where(
                    col(Campaign.project_id) == project_id, col(Campaign.id).in_(moving)
                )
            )
            found = rows.all()
            counts = await counts_of(connection, [row.id for row in found])
            now = await clock(connection)
        known.update({row.id: CampaignSummary(**summary_of(row, counts[row.id], now)) for row in found})
        newer = first is not None and await _newest(api, project_id, show, tests) != first
        return _parts(known, ids, newer=newer)

    async for event in live.stream(api, session, look, seen):
        yield event


async def _newest(api: Api, project_id: UUID, show: str, tests: bool) -> str:
    among = FILTERS[show][1]
    query = select(col(Campaign.id)).where(col(Campaign.project_id) == project_id)
    if among:
        query = query.where(col(Campaign.status).in_([status.value for status in among]))
    if not tests:
        query = query.where(col(Campaign.test_of).is_(None))
    async with api.ledger.read() as connection:
        newest = (await connection.execute(query.order_by(col(Campaign.id).desc()).limit(1))).scalar_one_or_none()
    return str(newest or "")


def _parts(known: Mapping[UUID, CampaignSummary], ids: Sequence[UUID], *, newer: bool) -> Parts:
    rows = {f"c-{one}": render.html("_campaign_row.html", campaign=known[one]) if one in known else "" for one in ids}
    return Parts({NEWER: render.html("_newer.html") if newer else "", **rows})

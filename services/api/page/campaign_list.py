"""All campaigns, newest first, in pages. Those that are under way are updated live."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Annotated
from urllib.parse import urlencode
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel, Field

from services.api.page import live, render
from services.api.page.live import Parts
from services.api.page.route import PageRoute, SessionDep, see_other
from services.api.shapes.campaigns import CampaignSummary
from services.api.usecases import campaigns
from services.api.usecases.campaigns import Filter
from services.api.web.context import ProjectDep
from services.api.web.streams import stream_place
from shared.ledger.states import FINAL, UNDER_WAY, CampaignStatus

PAGE_SIZE = 25
FILTERS: Mapping[str, tuple[str, Sequence[CampaignStatus]]] = {
    "all": ("All", ()),
    "moving": ("Under way", UNDER_WAY),
    "planned": ("Drafts and scheduled", (CampaignStatus.DRAFT, CampaignStatus.SCHEDULED)),
    "closed": ("Closed", FINAL),
}
NEWER = "newer"

router = APIRouter(include_in_schema=False, route_class=PageRoute)


class ListQuery(BaseModel):
    """Which campaigns are listed."""

    show: str = Field("all", pattern=f"^({'|'.join(FILTERS)})$")
    tests: bool = False

    @property
    def wanted(self) -> Filter:
        return Filter(FILTERS[self.show][1], self.tests)

    def address(self, **changes: str) -> str:
        """The address of this list, with some parameters changed; empty ones are left out."""
        given = {"show": self.show, "tests": "true" if self.tests else "", **changes}
        return f"/?{urlencode({name: value for name, value in given.items() if value})}"


class PageQuery(ListQuery):
    cursor: UUID | None = None
    told: str = ""


class LiveQuery(ListQuery):
    ids: list[UUID] = Field([], max_length=PAGE_SIZE)  # the campaigns on the page
    first: str | None = None  # the newest of them, if the page says when there are newer ones
    seen: str = ""  # what the page shows: see Parts.seen


@router.get("/campaigns")
async def typed(_session: SessionDep) -> Response:
    """A person who types the address of the list gets it."""
    return see_other("/")


@router.get("/")
async def show(request: Request, project: ProjectDep, query: Annotated[PageQuery, Query()]) -> Response:
    async with project.read() as connection:
        found = await campaigns.list_campaigns(connection, project.id, query.wanted, query.cursor, PAGE_SIZE)
    ids = [one.id for one in found.data]
    parts = _parts({one.id: one for one in found.data}, ids, newer=False)
    following = {"ids": [str(one) for one in ids], "seen": parts.seen()}
    if query.cursor is None:
        # Only the first page says that there are newer ones; for the others that is no news.
        following |= {"show": query.show, "tests": str(query.tests).lower(), "first": str(ids[0]) if ids else ""}
    return render.page(
        request,
        "campaigns.html",
        section="campaigns",
        notice="The draft was deleted." if query.told == "deleted" else "",
        campaigns=found.data,
        parts=parts.html,
        live=f"/live/campaigns?{urlencode(following, doseq=True)}",
        filters=[(word, query.address(show=name), name == query.show) for name, (word, _) in FILTERS.items()],
        tests=query.tests,
        toggle_tests=query.address(tests="" if query.tests else "true"),
        older=query.address(cursor=found.next_cursor) if found.next_cursor else "",
        newest=query.address() if query.cursor else "",
    )


@router.get("/live/campaigns", response_class=EventSourceResponse, dependencies=[Depends(stream_place)])
async def follow(
    project: ProjectDep, session: SessionDep, query: Annotated[LiveQuery, Query()]
) -> AsyncIterator[ServerSentEvent]:
    known: dict[UUID, CampaignSummary] = {}

    async def look() -> Parts:
        moving = [one for one in query.ids if one not in known or known[one].status not in FINAL]
        async with project.read() as connection:
            known.update({one.id: one for one in await campaigns.some(connection, project.id, moving)})
            newest = await campaigns.newest(connection, project.id, query.wanted)
        newer = query.first is not None and str(newest or "") != query.first
        return _parts(known, query.ids, newer=newer)

    async for event in live.stream(project.api, session, look, query.seen):
        yield event


def _parts(known: Mapping[UUID, CampaignSummary], ids: Sequence[UUID], *, newer: bool) -> Parts:
    rows = {f"c-{one}": render.html("_campaign_row.html", campaign=known[one]) if one in known else "" for one in ids}
    return Parts({NEWER: render.html("_newer.html") if newer else "", **rows})

"""One campaign: its progress, rate, timeline and buttons. Its parts are updated while they change."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent

from services.api.page import chart, live, render
from services.api.page.live import Parts
from services.api.page.route import PageRoute, SessionDep
from services.api.usecases import campaign_row, progress
from services.api.usecases.campaign_row import CampaignRef
from services.api.usecases.errors import RefusedError
from services.api.usecases.progress import Overview
from services.api.web.context import CampaignDep, Project, ProjectDep
from services.api.web.problems import problem_of
from services.api.web.streams import stream_place
from shared.ledger.states import EDITABLE, FINAL, IMPORT_UNFINISHED, CampaignStatus

TIMELINE_ENTRIES = 100
IMPORTS_SHOWN = 5

NOTICES = {
    "created": "The draft is saved.",
    "warned": "The draft is saved. There are warnings about its message: see the tab Message.",
    "imported": "The recipients are imported.",
    "imported-warned": "The recipients are imported. There are warnings about the message: see the tab Message.",
    "sent": "The campaign is on its way.",
    "scheduled": "The campaign is scheduled.",
    "sent-warned": "The campaign is on its way. There are warnings: see its timeline.",
    "scheduled-warned": "The campaign is scheduled. There are warnings: see its timeline.",
    "paused": "Paused. Emails in flight are being finished.",
    "resumed": "Resumed.",
    "cancelled": "Cancelled. What has not been sent will not be sent.",
    "retrying": "The failed recipients get another try.",
    "resolved": "The unknown recipients are being settled.",
    "tested": "The test is on its way.",
}

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@dataclass(frozen=True, slots=True)
class Told:
    """What the page says about the last action."""

    notice: str = ""
    test_id: UUID | None = None  # the campaign of the test that was sent
    refusal: RefusedError | None = None


class View:
    """What a campaign's page shows."""

    def __init__(self, overview: Overview) -> None:
        self.row = overview.row
        self.summary = overview.summary
        self.curve = overview.curve
        self.timeline = overview.timeline
        self.imports = overview.imports
        self.forgotten = overview.forgotten

    @property
    def possible(self) -> frozenset[str]:
        """What can be done now, and would do something."""
        found = set(campaign_row.possible(self.row))
        counts = self.summary.counts
        if counts.total == 0 or self.is_importing:
            found -= {"send"}
        if self.is_importing:
            found -= {"import recipients", "DELETE", "cancel"}
        if counts.failed == 0 or self.row.reopen:
            found -= {"retry-failed"}
        if counts.unknown == 0 or self.row.reopen:
            found -= {"resolve-unknown"}
        return frozenset(found)

    @property
    def is_importing(self) -> bool:
        return any(one.state in IMPORT_UNFINISHED for one in self.imports)

    @property
    def is_editable(self) -> bool:
        return self.summary.status in EDITABLE

    @property
    def is_over(self) -> bool:
        """Nothing changes by itself any more."""
        return self.summary.status in FINAL

    @property
    def is_moving(self) -> bool:
        return self.summary.status in (CampaignStatus.SENDING, CampaignStatus.STOPPING)

    @property
    def closed(self) -> int:
        """Recipients that are neither pending nor deferred."""
        return self.summary.counts.total - self.summary.counts.pending - self.summary.counts.deferred

    @property
    def per_second(self) -> float:
        """Emails sent per second over the last seconds."""
        return chart.lately(self.curve) if self.is_moving else 0.0

    @property
    def left_seconds(self) -> float | None:
        """How long the pending recipients will take at that rate; None if that is unknown."""
        rate = self.per_second
        waiting = self.summary.counts.pending
        return waiting / rate if rate > 0 and waiting and self.summary.status == CampaignStatus.SENDING else None


@router.get("/campaigns/{campaign_id}")
async def show(
    request: Request, campaign: CampaignDep, project: ProjectDep, told: str = "", test: UUID | None = None
) -> Response:
    return await shown(request, project, campaign, Told(NOTICES.get(told, ""), test))


@router.get("/campaigns/{campaign_id}/live", response_class=EventSourceResponse, dependencies=[Depends(stream_place)])
async def follow(
    request: Request, campaign: CampaignDep, project: ProjectDep, session: SessionDep, seen: str = ""
) -> AsyncIterator[ServerSentEvent]:
    form_token = render.form_token(request)

    async def look() -> Parts:
        return _parts(await _view(project, campaign), form_token)

    async for event in live.stream(project.api, session, look, seen):
        yield event


async def shown(request: Request, project: Project, campaign: CampaignRef, told: Told) -> Response:
    """The page. Raises NotFoundError."""
    view = await _view(project, campaign)
    parts = _parts(view, render.form_token(request))
    problem = problem_of(told.refusal) if told.refusal else None
    return render.page(
        request,
        "campaign.html",
        status_code=problem.status if problem else 200,
        section="campaigns",
        tab="overview",
        view=view,
        campaign=view.summary,
        parts=parts.html,
        live="" if parts.over else f"/campaigns/{campaign.id}/live?seen={parts.seen()}",
        notice=told.notice,
        test_id=told.test_id,
        problem=problem.document if problem else None,
    )


async def _view(project: Project, campaign: CampaignRef) -> View:
    async with project.read() as connection:
        return View(await progress.overview(connection, campaign, entries=TIMELINE_ENTRIES + 1, imports=IMPORTS_SHOWN))


def _parts(view: View, form_token: str) -> Parts:
    """The buttons contain no number that changes, so they are not replaced under a person's hands without need."""
    context = {"view": view, "campaign": view.summary, "counts": view.summary.counts, "csrf": form_token}
    return Parts(
        {
            "announcement": render.html("_announcement.html", **context),
            "state": render.html("_state.html", **context),
            "progress": render.html("_progress.html", **context),
            "chart": render.html("_chart.html", chart=chart.draw(view.curve), **context),
            "imports": render.html("_imports.html", **context) if view.is_editable else "",
            "buttons": render.html("_buttons.html", **context),
            "timeline": render.html("_timeline.html", most=TIMELINE_ENTRIES, **context),
        },
        over=view.is_over,
    )

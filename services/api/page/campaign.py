"""One campaign: how far it is, how fast, what happened, and the buttons. Its parts move while it does."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from sqlalchemy import Row, select
from sqlmodel import col

from services.api import campaign_row, imports
from services.api.context import Api, ApiDep, ProjectDep
from services.api.import_report import ImportOut
from services.api.page import chart, live, render
from services.api.page.live import Parts
from services.api.page.route import PageRoute, SessionDep
from services.api.problems import Problem
from services.api.shapes import CampaignSummary, summary_of
from shared.ledger import history
from shared.ledger.counts import counts
from shared.ledger.database import clock
from shared.ledger.history import Point
from shared.ledger.models import Timeline
from shared.ledger.states import EDITABLE, FINAL, IMPORT_UNFINISHED, CampaignStatus

TIMELINE_ENTRIES = 100
IMPORTS_SHOWN = 5

TOLD = {
    "created": "The draft is saved.",
    "imported": "The recipients are imported.",
    "sent": "The campaign is on its way.",
    "scheduled": "The campaign is scheduled.",
    "paused": "Paused. Emails in flight are being finished.",
    "resumed": "Going on.",
    "cancelled": "Cancelled. What was not sent yet will not be sent.",
    "retrying": "The failed recipients get another try.",
    "resolved": "The unknown recipients are being settled.",
    "tested": "The test is on its way.",
}

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@dataclass(frozen=True)
class View:
    """What a campaign's page shows. `curve` goes from the start to now, or to the end."""

    row: Row[Any]
    summary: CampaignSummary
    curve: Sequence[Point]
    timeline: Sequence[Row[Any]]
    imports: Sequence[ImportOut]

    @property
    def possible(self) -> frozenset[str]:
        """What can be done now and has something to do."""
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
        """Recipients of whom it is known what became of them."""
        return self.summary.counts.total - self.summary.counts.pending - self.summary.counts.deferred

    @property
    def per_second(self) -> float:
        """Emails sent a second, lately."""
        return chart.lately(self.curve) if self.is_moving else 0.0

    @property
    def left_seconds(self) -> float | None:
        """How long what waits will take at the rate of the last seconds."""
        rate = self.per_second
        waiting = self.summary.counts.pending
        return waiting / rate if rate > 0 and waiting and self.summary.status == CampaignStatus.SENDING else None


@router.get("/campaigns/{campaign_id}")
async def show(
    request: Request,
    campaign_id: UUID,
    api: ApiDep,
    project_id: ProjectDep,
    told: str = "",
    test: UUID | None = None,
) -> Response:
    return await shown(request, api, project_id, campaign_id, notice=TOLD.get(told, ""), test_id=test)


@router.get("/campaigns/{campaign_id}/live", response_class=EventSourceResponse)
async def follow(
    campaign_id: UUID, request: Request, api: ApiDep, project_id: ProjectDep, session: SessionDep, seen: str = ""
) -> AsyncIterator[ServerSentEvent]:
    form_token = render.form_token(request)

    async def look() -> Parts:
        return _parts(await view(api, project_id, campaign_id), form_token)

    async for event in live.stream(api, session, look, seen):
        yield event


async def shown(
    request: Request,
    api: Api,
    project_id: UUID,
    campaign_id: UUID,
    *,
    notice: str = "",
    test_id: UUID | None = None,
    problem: Problem | None = None,
) -> Response:
    """The page, perhaps with what has just been done, or why it could not be. Raises Problem 404."""
    seen = await view(api, project_id, campaign_id)
    parts = _parts(seen, render.form_token(request))
    return render.page(
        request,
        "campaign.html",
        status_code=problem.status_code if problem else 200,
        section="campaigns",
        tab="overview",
        view=seen,
        campaign=seen.summary,
        parts=parts.html,
        live="" if parts.over else f"/campaigns/{campaign_id}/live?seen={parts.seen()}",
        notice=notice,
        test_id=test_id,
        problem=problem.document if problem else None,
    )


async def view(api: Api, project_id: UUID, campaign_id: UUID) -> View:
    """Raises Problem 404."""
    async with api.ledger.read() as connection:
        row = await campaign_row.find(connection, project_id, campaign_id)
        by_status = await counts(connection, campaign_id)
        now = await clock(connection)
        points = await history.curve(connection, campaign_id)
        entries = await connection.execute(
            select(Timeline.__table__)  # type: ignore[attr-defined]
            .where(col(Timeline.campaign_id) == campaign_id)
            .order_by(col(Timeline.id).desc())
            .limit(TIMELINE_ENTRIES + 1)
        )
        timeline = entries.all()
    summary = CampaignSummary(**summary_of(row, by_status, now))
    recent: Sequence[ImportOut] = ()
    if summary.status in EDITABLE:
        recent = (await imports.list_imports(campaign_id, api, project_id, None, IMPORTS_SHOWN)).data
    return View(row, summary, _whole(points, row, summary, now), timeline, recent)


def _whole(points: Sequence[Point], row: Row[Any], summary: CampaignSummary, now: float) -> list[Point]:
    """The curve with its two ends, which the ledger knows without having noted them."""
    if row.started_at is None:
        return []
    end = Point(row.finished_at or now, summary.counts.sent, summary.counts.failed)
    return [
        Point(row.started_at, 0, 0),
        *(point for point in points if row.started_at < point.at < end.at),
        end,
    ]


def _parts(seen: View, form_token: str) -> Parts:
    """The buttons hold no number that moves: they are only sent anew, under a person's hands, where others are due."""
    context = {"view": seen, "campaign": seen.summary, "counts": seen.summary.counts, "csrf": form_token}
    return Parts(
        {
            "announcement": render.html("_announcement.html", **context),
            "state": render.html("_state.html", **context),
            "progress": render.html("_progress.html", **context),
            "chart": render.html("_chart.html", chart=chart.draw(seen.curve), **context),
            "imports": render.html("_imports.html", **context) if seen.is_editable else "",
            "buttons": render.html("_buttons.html", **context),
            "timeline": render.html("_timeline.html", most=TIMELINE_ENTRIES, **context),
        },
        over=seen.is_over,
    )

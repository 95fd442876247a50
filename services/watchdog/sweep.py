"""The sweep: compares campaigns that are not closed with their rows, and finds those that the dispatcher overlooked.

A pass over all of them goes in short ticks, so its cost per second is the same however much is open. A bookmark says
how far a pass has come: after a restart it continues there.
"""

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self
from uuid import UUID

from sqlalchemy import ColumnElement, Row, and_, case, exists, func, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from services.watchdog.findings import CallReason, Finding, Kind, of_repair
from shared.ledger import bookmarks, campaigns, instances, timeline
from shared.ledger.batches import in_state
from shared.ledger.database import Ledger, db_now
from shared.ledger.imports import importing
from shared.ledger.models import Batch, Campaign, Timeline
from shared.ledger.repair import repair_next
from shared.ledger.states import LIVE, UNDER_WAY, BatchState, CampaignStatus, before
from shared.settings import WatchdogSettings

TICK_SECONDS = 1.0

BATCHES_AT_ONCE = 40
"""Batches compared with their recipients in one tick: 20,000 recipients in batches of the usual size."""

CAMPAIGNS_AT_ONCE = 100
"""Campaigns looked at in one tick."""

LOOK_AGAIN_SECONDS = 3.0
"""A campaign is overlooked if nothing has changed after this time: three ticks of a dispatcher."""

FORGET_SECONDS = 3600.0
"""An instance not heard from for this long is removed from the list."""

CLOSED_AT_ONCE = 1000
"""Campaigns closed lately whose timelines are trimmed at the end of a pass."""

MOST_BLOCKED_NAMED = 100
"""Blocked campaigns that a pass names; while no relay can be used, all open campaigns are blocked."""

BOOKMARK = "sweep"

_NONE = UUID(int=0)

_Look = tuple[str, int, int]
"""Why a dispatcher should act on a campaign, and what changes while one does: the cursor, and how many live batches."""


class Sweep:
    """One pass after the other, each begun `sweep_seconds` after the one before, or later if that took longer.

    Several watchdogs may sweep: every repair takes the locks and confirms that it is needed."""

    def __init__(self, ledger: Ledger, settings: WatchdogSettings) -> None:
        self.ledger = ledger
        self._settings = settings
        #: When the pass under way began, or the last one; in monotonic seconds.
        self._began_at = float("-inf")
        #: None between two passes.
        self._position: _Position | None = None
        #: Campaigns that a dispatcher seems to overlook: how they looked, and when.
        self._suspects: dict[UUID, tuple[_Look, float]] = {}
        self._blocked: list[Finding] = []
        #: All campaigns of the pass that are blocked, named or not.
        self.blocked_count = 0
        #: Passes that have ended, and the seconds that the last one took.
        self.passes, self.pass_seconds = 0, 0.0

    @property
    def is_resting(self) -> bool:
        """Between two passes."""
        return self._position is None

    @property
    def only_looks_again(self) -> bool:
        """All campaigns of the pass were looked at; some are suspects, and are looked at once more."""
        return self._position is not None and self._position.at_end

    @property
    def blocked(self) -> Sequence[Finding]:
        """Campaigns of this pass, or of the last one, that say why they cannot continue: the first MOST_BLOCKED_NAMED.
        They continue by themselves; a person may know what to do."""
        return self._blocked

    async def tick(self) -> Sequence[Finding]:
        """One short step of a pass, if one is due. Returns what was found and done."""
        if self._position is None:
            if time.monotonic() - self._began_at < self._settings.sweep_seconds:
                return []
            self._began_at, self._blocked, self.blocked_count = time.monotonic(), [], 0
            async with self.ledger.read() as connection:
                self._position = _Position.of(await bookmarks.read(connection, BOOKMARK))
        findings = [] if self._position.at_end else await self._advance(self._position)
        findings += await self._look_again()
        if self._position.at_end and not self._suspects:
            await _tidy(self.ledger, self._settings)
            self._position, self.pass_seconds = None, time.monotonic() - self._began_at
            self.passes += 1
        return findings

    async def _advance(self, position: "_Position") -> list[Finding]:
        """Looks at the next campaigns, and compares the next batches of the first of them."""
        found = await self.ledger.read_at_once(partial(_next_campaigns, after=position.done))
        findings: list[Finding] = []
        looked: list[UUID] = []
        left = BATCHES_AT_ONCE
        for row in found:
            if left <= 0:
                break
            after = position.recipient if position.partial == row.id else 0
            if row.status in UNDER_WAY and after < row.cursor:
                left -= 1  # it costs a transaction at least
            while row.status in UNDER_WAY and after < row.cursor and left > 0:
                step = await repair_next(self.ledger, row.id, after, row.cursor, left)
                findings += map(of_repair, step.repairs)
                after, left = step.until, left - step.batches
            if row.status in UNDER_WAY and after < row.cursor:
                position.partial, position.recipient = row.id, after
                break
            position.done = row.id
            looked.append(row.id)
        position.at_end = len(looked) == len(found) < CAMPAIGNS_AT_ONCE
        await self._look_at(looked)
        await self.ledger.write_at_once(partial(self._note, looked=looked, position=position))
        return findings

    async def _note(self, connection: AsyncConnection, looked: Sequence[UUID], position: "_Position") -> None:
        """Trims the timelines of the campaigns that were looked at, and sets the bookmark."""
        for campaign_id in await _with_long_timelines(connection, looked, self._settings.timeline_entries):
            await timeline.trim(connection, campaign_id, self._settings.timeline_entries)
        if position.at_end:
            await bookmarks.remove(connection, BOOKMARK)
        else:
            await bookmarks.write(connection, BOOKMARK, position.as_value())

    async def _look_at(self, campaign_ids: Sequence[UUID]) -> None:
        if not campaign_ids:
            return

        async def look(connection: AsyncConnection) -> tuple[dict[UUID, _Look], Sequence[Finding]]:
            return await _waiting(connection, campaign_ids), await _blocked(connection, campaign_ids)

        waiting, blocked = await self.ledger.read_at_once(look)
        for campaign_id, seen in waiting.items():
            self._suspects[campaign_id] = (seen, time.monotonic())
        self.blocked_count += len(blocked)
        self._blocked += blocked[: MOST_BLOCKED_NAMED - len(self._blocked)]

    async def _look_again(self) -> list[Finding]:
        """Calls the dispatcher for campaigns that wait for it and have not changed for LOOK_AGAIN_SECONDS."""
        now = time.monotonic()
        ripe = [campaign_id for campaign_id, (_, at) in self._suspects.items() if now - at >= LOOK_AGAIN_SECONDS]
        if not ripe:
            return []
        async with self.ledger.read() as connection:
            still = await _waiting(connection, ripe)
        findings = []
        for campaign_id in ripe:
            look, _ = self._suspects.pop(campaign_id)
            if still.get(campaign_id) == look:
                reason = CallReason(look[0])
                findings.append(
                    Finding(Kind.CALL, reason.value, campaign_id, f"The dispatcher was called: {_WHY[reason]}")
                )
        if findings:
            async with self.ledger.write() as connection:
                for finding in findings:
                    await timeline.record(connection, finding.campaign_id, "called", finding.text)
        return findings


async def full_pass(sweep: Sweep) -> Sequence[Finding]:
    """A whole pass without pauses, from the first campaign on; returns what was found and done, and what is blocked."""
    async with sweep.ledger.write() as connection:
        await bookmarks.remove(connection, BOOKMARK)
    findings = list(await sweep.tick())
    while not sweep.is_resting:
        if sweep.only_looks_again:
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
        findings += await sweep.tick()
    return [*findings, *sweep.blocked]


@dataclass(slots=True)
class _Position:
    """How far a pass has come. Campaigns go by id."""

    done: UUID = _NONE  # the last campaign that is done
    partial: UUID = _NONE  # the campaign that is half done
    recipient: int = 0  # of that one: the last recipient id that was compared
    at_end: bool = False

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Self:
        return cls(UUID(value["done"]), UUID(value["partial"]), value["recipient"]) if value else cls()

    def as_value(self) -> Mapping[str, Any]:
        return {"done": str(self.done), "partial": str(self.partial), "recipient": self.recipient}


async def _next_campaigns(connection: AsyncConnection, after: UUID) -> Sequence[Row[UUID, str, int]]:
    found = await connection.execute(
        select(col(Campaign.id), col(Campaign.status), col(Campaign.cursor))
        .where(campaigns.not_closed(), col(Campaign.id) > after)
        .order_by(col(Campaign.id))
        .limit(CAMPAIGNS_AT_ONCE)
    )
    return found.all()


async def _blocked(connection: AsyncConnection, campaign_ids: Collection[UUID]) -> Sequence[Finding]:
    found = await connection.execute(
        select(col(Campaign.id), col(Campaign.blocked_by)).where(
            col(Campaign.id).in_(campaign_ids),
            col(Campaign.status).in_([status.value for status in UNDER_WAY]),
            col(Campaign.blocked_by).is_not(None),
        )
    )
    return [Finding(Kind.NOTICE, "blocked", row[0], row[1] or "") for row in found]


async def _with_long_timelines(
    connection: AsyncConnection, campaign_ids: Collection[UUID], most_entries: int
) -> Sequence[UUID]:
    if not campaign_ids:
        return []
    found = await connection.execute(
        select(col(Timeline.campaign_id))
        .where(col(Timeline.campaign_id).in_(campaign_ids))
        .group_by(col(Timeline.campaign_id))
        .having(func.count() > most_entries)
    )
    return found.scalars().all()


async def _tidy(ledger: Ledger, settings: WatchdogSettings) -> None:
    """At the end of a pass: trims the timelines of campaigns that were closed since, and forgets old instances."""
    async with ledger.read() as connection:
        found = await connection.execute(
            select(col(Campaign.id))
            .where(col(Campaign.finished_at) > db_now() - 2 * settings.sweep_seconds)
            .order_by(col(Campaign.finished_at).desc())
            .limit(CLOSED_AT_ONCE)
        )
        too_long = await _with_long_timelines(connection, found.scalars().all(), settings.timeline_entries)
    async with ledger.write() as connection:
        for campaign_id in too_long:
            await timeline.trim(connection, campaign_id, settings.timeline_entries)
        await instances.forget(connection, older_than_seconds=FORGET_SECONDS)


_WHY = {
    CallReason.SCHEDULE: "its scheduled time has come",
    CallReason.QUEUED: "it has not started",
    CallReason.CLOSE: "nothing is left to send, and it has not closed",
    CallReason.EXPIRED: "deliver_by has passed",
    CallReason.STOP: "it has not stopped",
}


async def _waiting(connection: AsyncConnection, campaign_ids: Collection[UUID]) -> dict[UUID, _Look]:
    """Those of the campaigns on which a dispatcher should act at once."""
    live = _batches(in_state(*LIVE))
    sending = _batches(in_state(BatchState.SENDING))
    reason = case(
        (
            and_(
                col(Campaign.status).in_([status.value for status in before(CampaignStatus.STOPPING)]),
                col(Campaign.deliver_by) <= db_now(),
                ~importing(col(Campaign.id)),
            ),
            CallReason.EXPIRED.value,
        ),
        (
            and_(_is(CampaignStatus.SCHEDULED), col(Campaign.scheduled_at) <= db_now(), ~importing(col(Campaign.id))),
            CallReason.SCHEDULE.value,
        ),
        (_is(CampaignStatus.QUEUED), CallReason.QUEUED.value),
        (and_(_is(CampaignStatus.SENDING), ~live, ~campaigns.has_uncut()), CallReason.CLOSE.value),
        (and_(_is(CampaignStatus.STOPPING), ~sending), CallReason.STOP.value),
    )
    live_batches = select(func.count()).where(col(Batch.campaign_id) == col(Campaign.id), in_state(*LIVE))
    found = await connection.execute(
        select(
            col(Campaign.id), reason, col(Campaign.cursor), live_batches.correlate(Campaign).scalar_subquery()
        ).where(campaigns.not_closed(), col(Campaign.id).in_(campaign_ids), reason.is_not(None))
    )
    return {row[0]: (row[1], row[2], row[3]) for row in found}


def _is(status: CampaignStatus) -> ColumnElement[bool]:
    return col(Campaign.status) == status.value


def _batches(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    return exists().where(col(Batch.campaign_id) == col(Campaign.id), condition)

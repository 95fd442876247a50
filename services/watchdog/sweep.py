"""The full sweep: compares campaigns under way with their rows, and finds campaigns that the dispatcher overlooked."""

import asyncio
from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import ColumnElement, and_, case, exists, func, or_, select
from sqlmodel import col

from services.watchdog.findings import CallReason, Finding, Kind, of_repair
from shared.ledger import campaigns, instances, timeline
from shared.ledger.batches import in_state
from shared.ledger.database import Ledger, db_now
from shared.ledger.imports import importing
from shared.ledger.models import Batch, Campaign, Timeline
from shared.ledger.repair import repair
from shared.ledger.states import LIVE, UNDER_WAY, BatchState, CampaignStatus, before
from shared.settings import WatchdogSettings

LOOK_AGAIN_SECONDS = 3.0
"""A campaign is overlooked if nothing has changed after this time: three ticks of a dispatcher."""

FORGET_SECONDS = 3600.0
"""An instance not heard from for this long is removed from the list."""


async def rows(ledger: Ledger) -> Sequence[Finding]:
    """Repairs open rows that no live batch covers, and counts that disagree with the rows."""
    async with ledger.read() as connection:
        found = await connection.execute(
            select(col(Campaign.id)).where(col(Campaign.status).in_([status.value for status in UNDER_WAY]))
        )
        campaign_ids = list(found.scalars())
    return [of_repair(done) for campaign_id in campaign_ids for done in await repair(ledger, campaign_id)]


async def overlooked(ledger: Ledger) -> Sequence[Finding]:
    """Finds campaigns that wait for a dispatcher: to start (scheduled or queued), to stop, to expire or to close."""
    suspects = await _waiting(ledger)
    if not suspects:
        return []
    await asyncio.sleep(LOOK_AGAIN_SECONDS)
    still = await _waiting(ledger)
    findings = []
    for campaign_id in suspects.keys() & still.keys():
        if suspects[campaign_id] == still[campaign_id]:
            reason = CallReason(still[campaign_id][0])
            findings.append(Finding(Kind.CALL, reason.value, campaign_id, f"The dispatcher was called: {_WHY[reason]}"))
    if not findings:
        return []
    async with ledger.write() as connection:
        for finding in findings:
            await timeline.record(connection, finding.campaign_id, "called", finding.text)
    return findings


async def blocked(ledger: Ledger) -> Sequence[Finding]:
    """Finds campaigns that say why they cannot continue. They continue by themselves; a person may know what to do."""
    async with ledger.read() as connection:
        found = await connection.execute(
            select(col(Campaign.id), col(Campaign.blocked_by)).where(
                col(Campaign.status).in_([status.value for status in UNDER_WAY]),
                col(Campaign.blocked_by).is_not(None),
            )
        )
        return [Finding(Kind.NOTICE, "blocked", row[0], row[1] or "") for row in found]


async def tidy(ledger: Ledger, settings: WatchdogSettings) -> None:
    """Keeps timelines and the list of instances bounded."""
    async with ledger.read() as connection:
        recent = or_(
            col(Campaign.status).in_([status.value for status in UNDER_WAY]),
            col(Campaign.finished_at) > db_now() - 2 * settings.sweep_seconds,
        )
        found = await connection.execute(
            select(col(Timeline.campaign_id))
            .join(Campaign, col(Campaign.id) == col(Timeline.campaign_id))
            .where(recent)
            .group_by(col(Timeline.campaign_id))
            .having(func.count() > settings.timeline_entries)
        )
        too_long = list(found.scalars())
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


async def _waiting(ledger: Ledger) -> dict[UUID, tuple[str, int, int]]:
    """Campaigns on which a dispatcher should act at once: the reason, and what changes while one does.

    That is the cursor and the number of live batches."""
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
    async with ledger.read() as connection:
        found = await connection.execute(
            select(
                col(Campaign.id), reason, col(Campaign.cursor), live_batches.correlate(Campaign).scalar_subquery()
            ).where(campaigns.not_closed(), reason.is_not(None))
        )
        return {row[0]: (row[1], row[2], row[3]) for row in found}


def _is(status: CampaignStatus) -> ColumnElement[bool]:
    return col(Campaign.status) == status.value


def _batches(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    return exists().where(col(Batch.campaign_id) == col(Campaign.id), condition)

"""The steps of a campaign that take one short transaction: scheduled start, start, expiry, pause."""

from collections.abc import Collection, Mapping
from uuid import UUID

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from services.dispatcher.survey import OpenCampaign
from shared import logs
from shared.ledger import campaigns, complaints, timeline
from shared.ledger.batches import in_state, requeue
from shared.ledger.database import Ledger, db_now
from shared.ledger.imports import importing
from shared.ledger.models import Batch, Campaign
from shared.ledger.states import BatchState, CampaignStatus, before

log = logs.get()


LOCK_QUEUED = campaigns.LockOfMany(campaigns.in_status(CampaignStatus.QUEUED))
_START = campaigns.MoveOfMany(
    CampaignStatus.SENDING,
    started_at=func.coalesce(col(Campaign.started_at), db_now()),
    finished_at=None,
    reason=None,
)


async def advance(ledger: Ledger, campaign: OpenCampaign) -> str | None:
    """Takes the step that is due; returns the new status, or None if none was due or another dispatcher was first."""
    status = campaign.status
    if campaign.overdue and status in before(CampaignStatus.STOPPING):
        return await _expire(ledger, campaign.id)
    if status == CampaignStatus.SCHEDULED:
        return await _start_scheduled(ledger, campaign.id)
    if status == CampaignStatus.PAUSED and campaign.released:
        campaign.out -= campaign.released
        campaign.released = 0
        return await _take_back_tickets(ledger, campaign.id)
    return None


async def start(ledger: Ledger, campaign_ids: Collection[UUID]) -> Collection[UUID]:
    """Starts those of the campaigns that are queued, in one transaction; returns them. Those of a project about which
    too many people complain pause instead."""
    async with ledger.write() as connection:
        queued = await LOCK_QUEUED.of(connection, campaign_ids)
        started, held = await begin(connection, queued)
    for campaign_id in held:
        log.warning("campaign.paused", campaign_id=str(campaign_id), reason="complaints")
    for campaign_id in started:
        log.info("campaign.started", campaign_id=str(campaign_id))
    return started


async def begin(
    connection: AsyncConnection, queued: Mapping[UUID, float | None]
) -> tuple[Collection[UUID], Collection[UUID]]:
    """The part of `start` after the campaigns are locked; `queued` says when each was started before. Returns those
    that are started, and those that pause."""
    held = await complaints.held(connection, queued)
    for campaign_id, reason in held.items():
        await campaigns.move(connection, campaign_id, CampaignStatus.PAUSED, reason=reason)
        await timeline.record(connection, campaign_id, "paused", reason)
    again = {campaign_id for campaign_id, started_at in queued.items() if started_at is not None}
    started = await _START.of(connection, queued.keys() - held.keys())
    for ids, kind, words in (
        (started & again, "continued", "Sending goes on"),
        (started - again, "started", "Sending has begun"),
    ):
        if ids:
            await timeline.record_all(connection, dict.fromkeys(ids, words), kind)
    return started, held.keys()


async def _expire(ledger: Ledger, campaign_id: UUID) -> str | None:
    """Stops a campaign past its deliver_by, unless an import of it is unfinished: then it waits for that."""
    overdue = col(Campaign.deliver_by) <= db_now()
    async with ledger.write() as connection:
        if not await _lock_unless_importing(connection, campaign_id, overdue, *before(CampaignStatus.STOPPING)):
            return None
        await campaigns.move(connection, campaign_id, CampaignStatus.STOPPING, stop_as=CampaignStatus.EXPIRED.value)
        await timeline.record(connection, campaign_id, "overdue", "deliver_by has passed: what is open is not sent")
    log.info("campaign.expired", campaign_id=str(campaign_id))
    return CampaignStatus.STOPPING.value


async def _start_scheduled(ledger: Ledger, campaign_id: UUID) -> str | None:
    """Starts a campaign at its scheduled time, unless an import of it is unfinished: then it waits for that."""
    due = col(Campaign.scheduled_at) <= db_now()
    async with ledger.write() as connection:
        if not await _lock_unless_importing(connection, campaign_id, due, CampaignStatus.SCHEDULED):
            return None
        await campaigns.move(connection, campaign_id, CampaignStatus.QUEUED)
    log.info("campaign.due", campaign_id=str(campaign_id))
    return CampaignStatus.QUEUED.value


async def _lock_unless_importing(
    connection: AsyncConnection, campaign_id: UUID, when: ColumnElement[bool], *states: CampaignStatus
) -> bool:
    """Locks a campaign that meets the conditions, and then checks that no import of it is unfinished.

    In two statements: opening an import locks the campaign too, and a statement that waited for that lock would not see
    the import, because PostgreSQL reads what was committed when the statement began."""
    locked = await campaigns.lock(connection, campaign_id, col(Campaign.status).in_(states), when)
    return locked is not None and not (await connection.execute(select(importing(campaign_id)))).scalar_one()


async def _take_back_tickets(ledger: Ledger, campaign_id: UUID) -> str | None:
    """Makes the released batches of a paused campaign wait; its senders give back the batches they hold."""
    async with ledger.write() as connection:
        released = (col(Batch.campaign_id) == campaign_id, in_state(BatchState.RELEASED))
        taken = len(await requeue(connection, *released))
        if taken:
            await timeline.record(
                connection, campaign_id, "withdrawn", f"{taken} batches that no sender had begun wait"
            )
    log.info("campaign.withdrawn", campaign_id=str(campaign_id), batches=taken)
    return CampaignStatus.PAUSED.value if taken else None

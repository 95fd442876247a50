"""Telling clients why nothing moves: batches wait, and no sender takes them."""

from sqlalchemy import exists, select, update
from sqlmodel import col

from shared import logs
from shared.ledger import timeline
from shared.ledger.batches import in_state
from shared.ledger.database import Ledger, db_now
from shared.ledger.models import Batch, Campaign
from shared.ledger.states import BatchState, CampaignStatus

NOBODY_SECONDS = 30.0
"""A sender with a free slot takes a released batch within seconds, with or without its ticket."""

NOBODY = "no sender is running"

log = logs.get()


async def mark(ledger: Ledger) -> None:
    """Sets `blocked_by` where batches wait so long while nothing at all is being sent, and clears it as soon as
    something is. The ledger alone tells: whether heartbeats come through does not matter."""
    sending = exists().where(in_state(BatchState.SENDING), col(Batch.lease_until) > db_now())
    async with ledger.read() as connection:
        if (await connection.execute(select(sending))).scalar_one():
            told = await connection.execute(
                select(col(Campaign.id)).where(
                    col(Campaign.status) == CampaignStatus.SENDING.value, col(Campaign.blocked_by) == NOBODY
                )
            )
            was, now, kind, words = NOBODY, None, "unblocked", "A sender is at work again"
        else:
            told = await connection.execute(
                select(col(Campaign.id))
                .join(Batch, col(Batch.campaign_id) == col(Campaign.id))
                .where(
                    in_state(BatchState.RELEASED),
                    col(Batch.released_at) < db_now() - NOBODY_SECONDS,
                    col(Campaign.status) == CampaignStatus.SENDING.value,
                    col(Campaign.blocked_by).is_(None),
                )
                .distinct()
            )
            was, now, kind, words = None, NOBODY, "blocked", "Batches wait, and no sender is running"
        campaign_ids = sorted(told.scalars())
    if not campaign_ids:
        return
    async with ledger.write() as connection:
        for campaign_id in campaign_ids:
            changed = await connection.execute(
                update(Campaign)
                .where(
                    col(Campaign.id) == campaign_id,
                    col(Campaign.status) == CampaignStatus.SENDING.value,
                    col(Campaign.blocked_by).is_(was) if was is None else col(Campaign.blocked_by) == was,
                )
                .values(blocked_by=now)
            )
            if changed.rowcount:
                await timeline.record(connection, campaign_id, kind, words)
                log.warning(f"campaign.{kind}", campaign_id=str(campaign_id), reason=words)

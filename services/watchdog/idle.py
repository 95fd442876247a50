"""Telling clients why nothing moves: batches wait, and no sender takes them."""

from sqlalchemy import ColumnElement, exists, or_, select, update
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
NO_RELAY = "no sender has a relay that can be used"
OURS = (NOBODY, NO_RELAY)

log = logs.get()


async def mark(ledger: Ledger, *, no_relay: bool) -> None:
    """Sets `blocked_by` where batches wait so long while nothing at all is being sent, and clears it as soon as
    something is. The ledger alone tells: whether heartbeats come through does not matter. Only that no sender has a
    relay (`no_relay`) is known from them."""
    sending = exists().where(in_state(BatchState.SENDING), col(Batch.lease_until) > db_now())
    async with ledger.read() as connection:
        if not no_relay and (await connection.execute(select(sending))).scalar_one():
            now, kind, words = None, "unblocked", "A sender is at work again"
            was: ColumnElement[bool] = col(Campaign.blocked_by).in_(OURS)
            found = select(col(Campaign.id))
        else:
            now, kind = NO_RELAY if no_relay else NOBODY, "blocked"
            words = f"Batches wait, and {now}"
            others = [reason for reason in OURS if reason != now]
            was = or_(col(Campaign.blocked_by).is_(None), col(Campaign.blocked_by).in_(others))
            late = in_state(BatchState.RELEASED) & (col(Batch.released_at) < db_now() - NOBODY_SECONDS)
            found = select(col(Campaign.id)).join(Batch, col(Batch.campaign_id) == col(Campaign.id)).where(late)
        is_sending = col(Campaign.status) == CampaignStatus.SENDING.value
        campaign_ids = sorted((await connection.execute(found.where(is_sending, was).distinct())).scalars())
    if not campaign_ids:
        return
    async with ledger.write() as connection:
        for campaign_id in campaign_ids:
            changed = await connection.execute(
                update(Campaign).where(col(Campaign.id) == campaign_id, is_sending, was).values(blocked_by=now)
            )
            if changed.rowcount:
                await timeline.record(connection, campaign_id, kind, words)
                log.warning(f"campaign.{kind}", campaign_id=str(campaign_id), reason=words)

"""Sets `blocked_by` of campaigns whose batches wait because no sender takes them."""

from sqlalchemy import ColumnElement, exists, or_, select, update
from sqlmodel import col

from shared import logs
from shared.ledger import timeline
from shared.ledger.batches import in_state
from shared.ledger.database import Ledger, db_now
from shared.ledger.models import Batch, Campaign
from shared.ledger.states import BatchState, CampaignStatus

UNCLAIMED_SECONDS = 30.0
"""A sender with a free place claims a released batch within seconds, even if its ticket is lost."""

NO_SENDER = "no sender is running"
NO_RELAY = "no sender has a relay that can be used"
REASONS = (NO_SENDER, NO_RELAY)

log = logs.get()


async def mark(ledger: Ledger, *, no_relay: bool) -> None:
    """Sets `blocked_by` of campaigns whose batches wait while nothing at all is being sent, and clears it afterwards.

    The ledger decides this, not the heartbeats. Only `no_relay` (no sender has a relay) is known from heartbeats."""
    sending = exists().where(in_state(BatchState.SENDING), col(Batch.lease_until) > db_now())
    async with ledger.read() as connection:
        if not no_relay and (await connection.execute(select(sending))).scalar_one():
            now, kind, words = None, "unblocked", "A sender is working again"
            was: ColumnElement[bool] = col(Campaign.blocked_by).in_(REASONS)
            found = select(col(Campaign.id))
        else:
            now, kind = NO_RELAY if no_relay else NO_SENDER, "blocked"
            words = f"Batches wait, and {now}"
            others = [reason for reason in REASONS if reason != now]
            was = or_(col(Campaign.blocked_by).is_(None), col(Campaign.blocked_by).in_(others))
            late = in_state(BatchState.RELEASED) & (col(Batch.released_at) < db_now() - UNCLAIMED_SECONDS)
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

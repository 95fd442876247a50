"""Sets `blocked_by` of campaigns whose batches wait because no sender takes them."""

from typing import Any

from sqlalchemy import ColumnElement, Select, or_, select, update
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


_SENDING = select(col(Batch.id)).where(in_state(BatchState.SENDING), col(Batch.lease_until) > db_now()).limit(1)
_IS_SENDING = col(Campaign.status) == CampaignStatus.SENDING.value


def _waiting(was: ColumnElement[bool]) -> Select[*tuple[Any, ...]]:
    """Campaigns whose batches wait, and whose `blocked_by` was so."""
    late = in_state(BatchState.RELEASED) & (col(Batch.released_at) < db_now() - UNCLAIMED_SECONDS)
    of_batches = select(col(Campaign.id)).join(Batch, col(Batch.campaign_id) == col(Campaign.id))
    return of_batches.where(late, _IS_SENDING, was).distinct()


def _says_otherwise(now: str) -> ColumnElement[bool]:
    """`blocked_by` is empty, or another of the reasons."""
    others = [reason for reason in REASONS if reason != now]
    return or_(col(Campaign.blocked_by).is_(None), col(Campaign.blocked_by).in_(others))


_WERE_BLOCKED = col(Campaign.blocked_by).in_(REASONS)
_BLOCKED = select(col(Campaign.id)).where(_IS_SENDING, _WERE_BLOCKED)
_WAITING = {now: _waiting(_says_otherwise(now)) for now in REASONS}


async def mark(ledger: Ledger, *, no_relay: bool) -> None:
    """Sets `blocked_by` of campaigns whose batches wait while nothing at all is being sent, and clears it afterwards.

    The ledger decides this, not the heartbeats. Only `no_relay` (no sender has a relay) is known from heartbeats."""
    now: str | None = None
    if not no_relay and await ledger.read_alone(_SENDING, {}):
        kind, words = "unblocked", "A sender is working again"
        was: ColumnElement[bool] = _WERE_BLOCKED
        found = _BLOCKED
    else:
        now, kind = NO_RELAY if no_relay else NO_SENDER, "blocked"
        words = f"Batches wait, and {now}"
        was = _says_otherwise(now)
        found = _WAITING[now]
    campaign_ids = sorted(row.id for row in await ledger.read_alone(found, {}))
    if not campaign_ids:
        return
    async with ledger.write() as connection:
        for campaign_id in campaign_ids:
            changed = await connection.execute(
                update(Campaign).where(col(Campaign.id) == campaign_id, _IS_SENDING, was).values(blocked_by=now)
            )
            if changed.rowcount:
                await timeline.record(connection, campaign_id, kind, words)
                log.warning(f"campaign.{kind}", campaign_id=str(campaign_id), reason=words)

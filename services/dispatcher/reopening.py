"""Opening closed recipients again because a person asked: retry-failed, resolve-unknown; in short transactions."""

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from services.dispatcher.deadline import Deadline
from shared import logs
from shared.ledger import batches, campaigns, recipients, timeline
from shared.ledger.batches import in_state
from shared.ledger.database import Ledger
from shared.ledger.models import Batch, Campaign
from shared.ledger.states import OPEN, BatchState, CampaignStatus, RecipientStatus

BATCHES_AT_ONCE = 10

log = logs.get()


@dataclass(frozen=True, slots=True)
class Way:
    """What `campaign.reopen` asks for. `told` is completed with the number of recipients."""

    source: RecipientStatus
    target: RecipientStatus
    told: str


WAYS: Mapping[str, Way] = {
    "failed": Way(RecipientStatus.FAILED, RecipientStatus.PENDING, "{} failed recipients are tried again"),
    "unknown_resend": Way(RecipientStatus.UNKNOWN, RecipientStatus.PENDING, "{} unknown recipients are sent to again"),
    "unknown_sent": Way(RecipientStatus.UNKNOWN, RecipientStatus.SENT, "{} unknown recipients count as sent"),
}

_IN = (CampaignStatus.QUEUED, CampaignStatus.SENDING, CampaignStatus.PAUSED)


async def reopen(ledger: Ledger, campaign_id: UUID, what: str, deadline: Deadline) -> None:
    """Goes on until no batch holds such a recipient. Nothing of the campaign is released meanwhile, so none that fails
    again is opened again by the same request. Interrupted, it begins anew and finds less to do."""
    way, moved = WAYS[what], 0
    while True:
        async with ledger.write() as connection:
            campaign = await campaigns.lock(connection, campaign_id)
            if campaign is None or campaign.reopen != what or campaign.status not in _IN:
                return
            batch_ids = await _holding(connection, campaign_id, way.source)
            for batch_id in batch_ids:
                moved += await _reopen_batch(connection, batch_id, way)
            if not batch_ids:
                await connection.execute(update(Campaign).where(col(Campaign.id) == campaign_id).values(reopen=None))
                await timeline.record(connection, campaign_id, "reopened", way.told.format(moved))
        if not batch_ids:
            log.info("campaign.reopened", campaign_id=str(campaign_id), what=what, recipients=moved)
            return
        if deadline.cuts_short():
            return
        await deadline.breathe()


async def _holding(connection: AsyncConnection, campaign_id: UUID, status: RecipientStatus) -> list[int]:
    found = await connection.execute(
        select(col(Batch.id))
        .where(col(Batch.campaign_id) == campaign_id, getattr(Batch, status.value) > 0)
        .order_by(col(Batch.first_id))
        .limit(BATCHES_AT_ONCE)
    )
    return list(found.scalars())


async def _reopen_batch(connection: AsyncConnection, batch_id: int, way: Way) -> int:
    """Returns how many recipients changed."""
    batch = await batches.lock(connection, batch_id)
    if batch is None:
        return 0
    changed = await recipients.reopen(
        connection, batch.campaign_id, batch.first_id, batch.last_id, way.source, way.target
    )
    source, target = way.source.value, way.target.value
    await connection.execute(
        update(Batch)
        .where(col(Batch.id) == batch_id)
        .values({source: getattr(Batch, source) - changed, target: getattr(Batch, target) + changed})
    )
    if way.target in OPEN and changed:
        # A batch in a sender's hands keeps its generation: its finish sees the open rows and gives it back.
        await batches.requeue(connection, col(Batch.id) == batch_id, ~in_state(BatchState.RELEASED, BatchState.SENDING))
    return changed

"""Opening closed recipients again because a person asked (retry-failed, resolve-unknown), in short transactions."""

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
class Request:
    """A request to move recipients from one status to another."""

    source: RecipientStatus
    target: RecipientStatus
    summary: str  # for the timeline, with a place for the number of recipients


REQUESTS: Mapping[str, Request] = {
    "failed": Request(RecipientStatus.FAILED, RecipientStatus.PENDING, "{} failed recipients are tried again"),
    "unknown_resend": Request(
        RecipientStatus.UNKNOWN, RecipientStatus.PENDING, "{} unknown recipients are sent to again"
    ),
    "unknown_sent": Request(RecipientStatus.UNKNOWN, RecipientStatus.SENT, "{} unknown recipients count as sent"),
}

_OPEN_CAMPAIGN = (CampaignStatus.QUEUED, CampaignStatus.SENDING, CampaignStatus.PAUSED)


async def reopen(ledger: Ledger, campaign_id: UUID, what: str, deadline: Deadline) -> None:
    """Serves the request `campaign.reopen` until no batch has such a recipient, or the deadline passes.

    The campaign releases nothing meanwhile, so a recipient that fails again is not opened twice by one request. If
    interrupted, it starts over and finds less to do."""
    request, moved = REQUESTS[what], 0
    while True:
        async with ledger.write() as connection:
            campaign = await campaigns.lock(connection, campaign_id)
            if campaign is None or campaign.reopen != what or campaign.status not in _OPEN_CAMPAIGN:
                return
            batch_ids = await _holding(connection, campaign_id, request.source)
            for batch_id in batch_ids:
                moved += await _reopen_batch(connection, batch_id, request)
            if not batch_ids:
                await connection.execute(update(Campaign).where(col(Campaign.id) == campaign_id).values(reopen=None))
                await timeline.record(connection, campaign_id, "reopened", request.summary.format(moved))
        if not batch_ids:
            log.info("campaign.reopened", campaign_id=str(campaign_id), what=what, recipients=moved)
            return
        if deadline.has_passed():
            return
        await deadline.pause()


async def _holding(connection: AsyncConnection, campaign_id: UUID, status: RecipientStatus) -> list[int]:
    found = await connection.execute(
        select(col(Batch.id))
        .where(col(Batch.campaign_id) == campaign_id, getattr(Batch, status.value) > 0)
        .order_by(col(Batch.first_id))
        .limit(BATCHES_AT_ONCE)
    )
    return list(found.scalars())


async def _reopen_batch(connection: AsyncConnection, batch_id: int, request: Request) -> int:
    """Returns the number of recipients that changed."""
    batch = await batches.lock(connection, batch_id)
    if batch is None:
        return 0
    changed = await recipients.reopen(
        connection, batch.campaign_id, batch.first_id, batch.last_id, request.source, request.target
    )
    source, target = request.source.value, request.target.value
    gone = {"gone": 0} if request.source is RecipientStatus.FAILED else {}
    await connection.execute(
        update(Batch)
        .where(col(Batch.id) == batch_id)
        .values({source: getattr(Batch, source) - changed, target: getattr(Batch, target) + changed, **gone})
    )
    if request.target in OPEN and changed:
        # Not a batch that a sender works on: at its end the sender sees the open recipients and gives it back.
        await batches.requeue(connection, col(Batch.id) == batch_id, ~in_state(BatchState.RELEASED, BatchState.SENDING))
    return changed

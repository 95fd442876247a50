"""Opening closed recipients again because a person asked (retry-failed, resolve-unknown), in short transactions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from services.dispatcher.deadline import Deadline, Steps
from shared import logs
from shared.ledger import batches, bookmarks, campaigns, recipients, timeline
from shared.ledger.batches import in_state
from shared.ledger.database import Ledger
from shared.ledger.models import Batch, Campaign
from shared.ledger.states import OPEN, BatchState, CampaignStatus, RecipientStatus

FIRST_BATCHES, MOST_BATCHES = 10, 50
"""Batches reopened in the first step, and in later ones."""

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
    """Serves the request `campaign.reopen`, batch by batch, until all batches are done or the deadline passes.

    The campaign releases nothing meanwhile, so a recipient that fails again is not opened twice by one request. A
    bookmark says how far it has come: it continues there if it was interrupted."""
    steps = Steps(FIRST_BATCHES, MOST_BATCHES)

    async def step(size: int) -> bool:
        async with ledger.write() as connection:
            campaign = await campaigns.lock(connection, campaign_id)
            if campaign is None or campaign.reopen != what or campaign.status not in _OPEN_CAMPAIGN:
                return False
            return await _reopen_some(connection, campaign_id, what, size)

    while await steps.run(step):
        if deadline.has_passed():
            return
        await deadline.pause()


async def _reopen_some(connection: AsyncConnection, campaign_id: UUID, what: str, size: int) -> bool:
    """Reopens the next batches, or ends the request if there are no more: then it returns False."""
    name, request = f"reopen:{campaign_id}", REQUESTS[what]
    found = await bookmarks.read(connection, name)
    after, moved = (found["after"], found["moved"]) if found.get("what") == what else (0, 0)
    holding = await _holding(connection, campaign_id, request.source, after, size)
    if not holding:
        await connection.execute(update(Campaign).where(col(Campaign.id) == campaign_id).values(reopen=None))
        await timeline.record(connection, campaign_id, "reopened", request.summary.format(moved))
        await bookmarks.remove(connection, name)
        log.info("campaign.reopened", campaign_id=str(campaign_id), what=what, recipients=moved)
        return False
    await batches.lock_all(connection, [batch_id for batch_id, _ in holding])
    for batch_id, _ in holding:
        moved += await _reopen_batch(connection, batch_id, request)
    await bookmarks.write(connection, name, {"what": what, "after": holding[-1][1], "moved": moved})
    return True


async def _holding(
    connection: AsyncConnection, campaign_id: UUID, status: RecipientStatus, after: int, most: int
) -> Sequence[tuple[int, int]]:
    """The next batches with recipients of this status: their ids and first recipients."""
    found = await connection.execute(
        select(col(Batch.id), col(Batch.first_id))
        .where(col(Batch.campaign_id) == campaign_id, col(Batch.first_id) > after, getattr(Batch, status.value) > 0)
        .order_by(col(Batch.first_id))
        .limit(most)
    )
    return [(row.id, row.first_id) for row in found]


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

"""Closing what is open of a campaign that was cancelled or is past deliver_by, in short transactions.

Batches that are being sent are left to their senders, who give them back within a second, or to the watchdog.
"""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import case, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from services.dispatcher.deadline import Deadline
from shared.ledger import campaigns
from shared.ledger.batches import in_state
from shared.ledger.campaigns import Locked
from shared.ledger.database import Ledger, db_now
from shared.ledger.models import Batch, Recipient
from shared.ledger.repair import recount
from shared.ledger.states import OPEN, BatchState, CampaignStatus, RecipientStatus

ROWS_AT_ONCE = 5000
BATCHES_AT_ONCE = 10


async def stop(ledger: Ledger, campaign_id: UUID, deadline: Deadline) -> bool:
    """Closes what it can until nothing is left or the soft deadline passes; False where there was nothing to close."""
    closed = False
    for step in (_close_waiting, _close_uncut):
        while True:
            async with ledger.write() as connection:
                campaign = await campaigns.lock(connection, campaign_id)
                if campaign is None or campaign.status != CampaignStatus.STOPPING:
                    return closed
                if not await step(connection, campaign_id, campaign):
                    break
            closed = True
            if deadline.cuts_short():
                return closed
            await deadline.breathe()
    return closed


async def _close_waiting(connection: AsyncConnection, campaign_id: UUID, campaign: Locked) -> bool:
    """Closes a few batches that nobody holds; their tickets are stale from now on."""
    found = await connection.execute(
        select(col(Batch.id))
        .where(col(Batch.campaign_id) == campaign_id, in_state(BatchState.WAITING, BatchState.RELEASED))
        .limit(BATCHES_AT_ONCE)
    )
    ids = sorted(found.scalars())
    for batch_id in ids:
        taken = await connection.execute(
            update(Batch)
            .where(col(Batch.id) == batch_id, in_state(BatchState.WAITING, BatchState.RELEASED))
            .values(
                state=BatchState.CANCELLED.value,
                generation=col(Batch.generation) + 1,
                owner=None,
                lease_until=None,
                released_at=None,
            )
            .returning(col(Batch.first_id), col(Batch.last_id))
        )
        taken_range = taken.first()
        if taken_range is not None:
            await _close_rows(connection, campaign_id, campaign, *taken_range)
            await recount(connection, batch_id)
    return bool(ids)


async def _close_uncut(connection: AsyncConnection, campaign_id: UUID, campaign: Locked) -> bool:
    """Cuts the next recipients that no batch covers straight into a closed batch."""
    cut = await campaigns.next_range(connection, campaign_id, campaign.cursor, ROWS_AT_ONCE)
    if cut is None:
        return False
    await campaigns.move_cursor(connection, campaign_id, cut.last_id)
    inserted = await connection.execute(
        insert(Batch)
        .values(
            campaign_id=campaign_id,
            first_id=cut.first_id,
            last_id=cut.last_id,
            size=cut.size,
            state=BatchState.CANCELLED.value,
            due_at=db_now(),
        )
        .returning(col(Batch.id))
    )
    batch_id: int = inserted.scalar_one()
    await _close_rows(connection, campaign_id, campaign, cut.first_id, cut.last_id)
    await recount(connection, batch_id)
    return True


async def _close_rows(
    connection: AsyncConnection, campaign_id: UUID, campaign: Locked, first_id: int, last_id: int
) -> None:
    """An email whose body may have left is unknown, not cancelled: nobody can say that it was not sent."""
    await connection.execute(
        update(Recipient)
        .where(
            col(Recipient.campaign_id) == campaign_id,
            col(Recipient.id).between(first_id, last_id),
            col(Recipient.status).in_(_values(OPEN)),
        )
        .values(
            status=case(
                (col(Recipient.intent_at).is_not(None), RecipientStatus.UNKNOWN.value),
                else_=campaign.stop_as or RecipientStatus.CANCELLED.value,
            ),
            next_attempt_at=None,
        )
    )


def _values(statuses: Sequence[RecipientStatus]) -> list[str]:
    return [status.value for status in statuses]

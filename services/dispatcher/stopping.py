"""Closing the open recipients of a campaign that was cancelled or is past deliver_by, in short transactions.

Senders give back the batches they hold within a second; the watchdog rescues the rest.
"""

from collections.abc import Awaitable, Callable
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from services.dispatcher.deadline import Deadline, Steps
from shared.ledger import batches, campaigns, recipients
from shared.ledger.batches import in_state
from shared.ledger.campaigns import Locked, Range
from shared.ledger.database import Ledger
from shared.ledger.models import Batch
from shared.ledger.repair import recount
from shared.ledger.states import BatchState, CampaignStatus, RecipientStatus

FIRST_BATCHES, MOST_BATCHES = 4, 20
"""Batches closed in the first step, and in later ones."""
UNCUT_ROWS = 250
"""Recipients that no batch covers and that are closed in place of one batch: at most 5,000 in one step."""

_Close = Callable[[AsyncConnection, UUID, Locked, int], Awaitable[bool]]


async def stop(ledger: Ledger, campaign_id: UUID, deadline: Deadline) -> bool:
    """Closes what no sender holds, until nothing is left or the deadline passes; returns whether it closed anything."""
    closed = False
    for close in (_close_waiting, _close_uncut):
        steps = Steps(FIRST_BATCHES, MOST_BATCHES)

        async def step(size: int, close: _Close = close) -> bool:
            async with ledger.write() as connection:
                campaign = await campaigns.lock(connection, campaign_id)
                if campaign is None or campaign.status != CampaignStatus.STOPPING:
                    return False
                return await close(connection, campaign_id, campaign, size)

        while await steps.run(step):
            closed = True
            if deadline.has_passed():
                return closed
            await deadline.pause()
    return closed


async def _close_waiting(connection: AsyncConnection, campaign_id: UUID, campaign: Locked, size: int) -> bool:
    """Closes a few batches that no sender holds."""
    found = await connection.execute(
        select(col(Batch.id))
        .where(col(Batch.campaign_id) == campaign_id, in_state(BatchState.WAITING, BatchState.RELEASED))
        .limit(size)
    )
    ids = sorted(found.scalars())
    await batches.lock_all(connection, ids)
    for batch_id in ids:
        cancelled = await batches.cancel(connection, batch_id)
        if cancelled is not None:
            await _close_rows(connection, campaign_id, campaign, cancelled)
            await recount(connection, batch_id)
    return bool(ids)


async def _close_uncut(connection: AsyncConnection, campaign_id: UUID, campaign: Locked, size: int) -> bool:
    """Puts the next recipients that no batch covers into a batch that is closed at once."""
    cut = await campaigns.next_range(connection, campaign_id, campaign.cursor, size * UNCUT_ROWS)
    if cut is None:
        return False
    await campaigns.move_cursor(connection, campaign_id, cut.last_id)
    batch_id = await batches.create(connection, campaign_id, cut, BatchState.CANCELLED)
    await _close_rows(connection, campaign_id, campaign, cut)
    await recount(connection, batch_id)
    return True


async def _close_rows(connection: AsyncConnection, campaign_id: UUID, campaign: Locked, cut: Range) -> None:
    to = RecipientStatus(campaign.stop_as or RecipientStatus.CANCELLED)
    await recipients.close_open(connection, campaign_id, cut.first_id, cut.last_id, to)

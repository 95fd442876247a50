"""Keeps the counts of a large campaign in one row, so that no page and no clock adds up all of its batches.

A batch that rests (it is closed, or waits for long) may be `rolled_up`: its counts are in the rollup of its campaign.
To lock a batch takes it out of the rollup, because its counts may change then. No batch in a rollup is released. The
dispatcher rolls up what rests again. `renew` adds everything up, before a campaign closes.

The rollup is locked after the batches, never before.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import Row, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from shared.ledger import rows
from shared.ledger.counts import NAMES
from shared.ledger.database import Ledger, db_now
from shared.ledger.models import Batch, Rollup
from shared.ledger.states import LIVE, BatchState

MOST_RESTING = 500
"""Batches that rest and are not in the rollup of their campaign, between two looks of the dispatcher."""
BATCHES_AT_ONCE = 1_000
LONG_SECONDS = 300.0
"""A batch that is due earlier does not rest: it would have to be taken out again soon."""

SUMMED = ("size", "rescues", "gone", *NAMES)
"""The columns of a rollup, and of the batches in it."""

_OF_BATCH = (col(Batch.campaign_id), *(getattr(Batch, name) for name in SUMMED))
_RESTS = or_(
    col(Batch.state).not_in([state.value for state in LIVE]),
    (col(Batch.state) == BatchState.WAITING.value) & (col(Batch.due_at) > db_now() + LONG_SECONDS),
)
_LOOSE = (~col(Batch.rolled_up), _RESTS)


async def due(connection: AsyncConnection) -> Sequence[UUID]:
    """The campaigns with too many batches outside their rollup."""
    found = await connection.scalars(
        select(col(Batch.campaign_id))
        .where(*_LOOSE)
        .group_by(col(Batch.campaign_id))
        .having(func.count() >= MOST_RESTING)
    )
    return found.all()


async def roll_up(ledger: Ledger, campaign_id: UUID) -> int:
    """Takes the next batches of a campaign into its rollup; returns how many, at most BATCHES_AT_ONCE."""
    return await ledger.write_at_once(partial(_roll_up, campaign_id=campaign_id))


async def take_out(connection: AsyncConnection, batch_ids: Collection[int]) -> None:
    """Takes out those of the batches that are rolled up. The caller has locked them, so that none gets in again."""
    taken = await connection.execute(
        update(Batch)
        .where(col(Batch.id).in_(batch_ids), col(Batch.rolled_up))
        .values(rolled_up=False)
        .returning(*_OF_BATCH)
    )
    for campaign_id, sums in sorted(_sums(taken.all()).items()):  # in one order, to avoid deadlocks
        less = {name: getattr(Rollup, name) - number for name, number in sums.items()}
        await connection.execute(update(Rollup).where(col(Rollup.campaign_id) == campaign_id).values(less))


async def renew(connection: AsyncConnection, campaign_id: UUID) -> bool:
    """Adds up the batches of a rollup again; returns whether it was wrong."""
    kept = await rows.lock(
        connection,
        Rollup.size,
        col(Rollup.campaign_id) == campaign_id,
        returning=[getattr(Rollup, name) for name in SUMMED],
    )
    if kept is None:
        return False
    # A transaction that takes a batch in or out changes the batch first, and commits both.
    found = await connection.execute(
        select(*(func.coalesce(func.sum(getattr(Batch, name)), 0) for name in SUMMED)).where(
            col(Batch.campaign_id) == campaign_id, col(Batch.rolled_up)
        )
    )
    right = {name: int(number) for name, number in zip(SUMMED, found.one(), strict=True)}
    if right == dict(zip(SUMMED, kept, strict=True)):
        return False
    await connection.execute(update(Rollup).where(col(Rollup.campaign_id) == campaign_id).values(right))
    return True


async def _roll_up(connection: AsyncConnection, campaign_id: UUID) -> int:
    loose = (
        select(col(Batch.id))
        .where(col(Batch.campaign_id) == campaign_id, *_LOOSE)
        .order_by(col(Batch.id))
        .limit(BATCHES_AT_ONCE)
        .with_for_update(key_share=True, skip_locked=True)
    )
    taken = await connection.execute(
        update(Batch).where(col(Batch.id).in_(loose)).values(rolled_up=True).returning(*_OF_BATCH)
    )
    batches = taken.all()
    if batches:
        await connection.execute(rows.insert_missing(connection, Rollup).values(campaign_id=campaign_id))
        more = {name: getattr(Rollup, name) + number for name, number in _sums(batches)[campaign_id].items()}
        await connection.execute(update(Rollup).where(col(Rollup.campaign_id) == campaign_id).values(more))
    return len(batches)


def _sums(batches: Sequence[Row[Any]]) -> dict[UUID, Counter[str]]:
    sums = defaultdict[UUID, Counter[str]](Counter)
    for batch in batches:
        sums[batch.campaign_id].update({name: getattr(batch, name) for name in SUMMED})
    return sums

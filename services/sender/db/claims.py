"""A batch from claim to end: claim it, resume it, renew its lease, look at it, let it go."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, exists, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from shared.ledger import batches
from shared.ledger.batches import Requeued, in_state, requeue
from shared.ledger.database import Ledger, db_now
from shared.ledger.models import Batch, Campaign, Recipient
from shared.ledger.states import BatchState, CampaignStatus, RecipientStatus


@dataclass(frozen=True, slots=True)
class Claim:
    """A batch that is ours. Seconds are relative to the claim, so no two clocks are ever compared."""

    batch_id: int
    campaign_id: UUID
    generation: int
    first_id: int
    last_id: int
    size: int
    dated_at: float
    starts_in_seconds: float
    span_seconds: float | None


@dataclass(frozen=True, slots=True)
class Ticket:
    """A released batch, to be claimed at this generation."""

    batch_id: int
    generation: int


@dataclass(frozen=True, slots=True)
class LetGo:
    """How a batch was left: `done`, `waiting` or `lost`; `deferred` recipients will be tried again."""

    state: str
    deferred: int = 0


@dataclass(frozen=True, slots=True)
class Look:
    """What the ledger says of a batch in hand; `generation` is None when the batch is gone."""

    generation: int | None
    state: str
    campaign_status: str
    overdue: bool


async def claim(ledger: Ledger, batch_id: int, generation: int, owner: str, lease_seconds: float) -> Claim | None:
    """One conditional update. None: the ticket is stale (claimed, rescued, paused, cancelled or late)."""
    async with ledger.write() as connection:
        taken = await _take(
            connection,
            owner,
            lease_seconds,
            BatchState.RELEASED,
            (col(Batch.id) == batch_id, col(Batch.generation) == generation),
        )
    return taken[0] if taken else None


async def resume(connection: AsyncConnection, owner: str, lease_seconds: float, limit: int) -> Sequence[Claim]:
    """What our former self held goes on in our hands at once, at the next generation. Only for an owner whose slot lock
    we hold: nobody else can be that owner now."""
    held = (
        select(col(Batch.id))
        .where(col(Batch.owner) == owner, col(Batch.state) == BatchState.SENDING.value)
        .order_by(col(Batch.claimed_at))
        .limit(limit)
    )
    return await _take(
        connection,
        owner,
        lease_seconds,
        BatchState.SENDING,
        (col(Batch.id).in_(held),),
        rescues=col(Batch.rescues) + 1,
    )


async def _take(
    connection: AsyncConnection,
    owner: str,
    lease_seconds: float,
    state: BatchState,
    conditions: Sequence[ColumnElement[bool]],
    **values: Any,
) -> Sequence[Claim]:
    """Makes batches ours whose campaign is being sent and not past deliver_by."""
    taken = await batches.move(
        connection,
        BatchState.SENDING,
        *conditions,
        exists().where(
            col(Campaign.id) == col(Batch.campaign_id),
            col(Campaign.status) == CampaignStatus.SENDING.value,
            or_(col(Campaign.deliver_by).is_(None), col(Campaign.deliver_by) > db_now()),
        ),
        from_=(state,),
        owner=owner,
        lease_until=db_now() + lease_seconds,
        claimed_at=db_now(),
        dated_at=func.coalesce(col(Batch.dated_at), db_now()),
        returning=(
            col(Batch.id),
            col(Batch.campaign_id),
            col(Batch.generation),
            col(Batch.first_id),
            col(Batch.last_id),
            col(Batch.size),
            func.coalesce(col(Batch.dated_at), 0.0),
            col(Batch.due_at) - db_now(),
            col(Batch.span_seconds),
        ),
        **values,
    )
    return [Claim(*row) for row in taken]


async def overlooked(ledger: Ledger, patience_seconds: float, limit: int) -> Sequence[Ticket]:
    """Batches released so long ago that their ticket must be late or lost."""
    async with ledger.read() as connection:
        rows = await connection.execute(
            select(col(Batch.id), col(Batch.generation))
            .where(
                in_state(BatchState.RELEASED),
                col(Batch.released_at) < db_now() - patience_seconds,
            )
            .order_by(col(Batch.released_at))
            .limit(limit)
        )
        return [Ticket(row[0], row[1]) for row in rows]


async def renew(ledger: Ledger, batch_id: int, generation: int, lease_seconds: float) -> bool:
    """Renews the lease; False: the batch is lost."""
    async with ledger.write() as connection:
        changed = await connection.execute(
            update(Batch)
            .where(col(Batch.id) == batch_id, col(Batch.generation) == generation)
            .values(lease_until=db_now() + lease_seconds)
        )
        return changed.rowcount == 1


async def look(ledger: Ledger, batch_ids: Sequence[int]) -> dict[int, Look]:
    """How the batches in hand and their campaigns stand."""
    async with ledger.read() as connection:
        rows = await connection.execute(
            select(
                col(Batch.id),
                col(Batch.generation),
                col(Batch.state),
                col(Campaign.status),
                func.coalesce(col(Campaign.deliver_by) <= db_now(), False),
            )
            .join(Campaign, col(Campaign.id) == col(Batch.campaign_id))
            .where(col(Batch.id).in_(batch_ids))
        )
        return {row[0]: Look(row[1], row[2], row[3], bool(row[4])) for row in rows}


async def let_go(
    connection: AsyncConnection, held: Claim, *, retry_jitter_seconds: float, pause_seconds: float
) -> LetGo:
    """Ends our hold on a batch: `done` where nothing is open, else `waiting`. Rows still pending come at once, or after
    `pause_seconds`; deferred ones when the first is due."""
    batch = await batches.lock(connection, held.batch_id, held.generation)
    if batch is None:
        return LetGo("lost")
    if batch.pending == 0 and batch.deferred == 0:
        await batches.finish(connection, held.batch_id, held.generation)
        return LetGo(BatchState.DONE.value)
    due_in = pause_seconds
    if batch.pending == 0:
        first_due = await connection.execute(
            select(func.min(col(Recipient.next_attempt_at)) - db_now()).where(
                col(Recipient.campaign_id) == held.campaign_id,
                col(Recipient.id).between(held.first_id, held.last_id),
                col(Recipient.status) == RecipientStatus.DEFERRED.value,
            )
        )
        due_in = max(first_due.scalar_one() or 0.0, 0.0) + retry_jitter_seconds
    ours = (col(Batch.id) == held.batch_id, col(Batch.generation) == held.generation)
    await requeue(connection, *ours, due_in_seconds=due_in)
    return LetGo(BatchState.WAITING.value, batch.deferred)


async def take_back(connection: AsyncConnection, owner: str, resumed: Sequence[Claim]) -> Sequence[Requeued]:
    """What our former self held and we do not go on with: its campaign is paused, stopping or late."""
    return await requeue(
        connection,
        col(Batch.owner) == owner,
        col(Batch.state) == BatchState.SENDING.value,
        col(Batch.id).not_in([held.batch_id for held in resumed]),
        rescued=True,
    )

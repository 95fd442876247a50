"""Batches: the lock of their range, every change of their state, and the conditions that their indexes answer."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Float,
    Integer,
    Row,
    and_,
    bindparam,
    case,
    func,
    insert,
    literal_column,
    select,
    true,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.dml import ReturningInsert, ReturningUpdate
from sqlmodel import col

from shared.ledger import campaigns, rollups, rows
from shared.ledger.campaigns import Range
from shared.ledger.database import Ledger, db_now
from shared.ledger.in_order import LARGEST_ID, NEVER_SORT
from shared.ledger.models import Batch, Campaign
from shared.ledger.states import LIVE, NEW_BATCH, BatchState, CampaignStatus, before

NEARLY_OUT = 10
"""A batch is nearly out when at most one in this many of its recipients has no result: it mostly waits for replies."""

LIMITED_PER_PLACE = 128
"""Batches under a limit that a sender holds beside those with a place, at most, for each of its places."""

MOST_FRUITLESS, RESCUE_POINTS, RESTART_POINTS = 12, 4, 1
"""A batch that reaches so many points without progress in between may be what stops its senders: its campaign pauses.
A rescue says more than a restart of its sender, which may have been killed a few times in a row."""

_FREE: Mapping[str, Any] = {"owner": None, "lease_until": None, "released_at": None}


@dataclass(frozen=True, slots=True)
class Locked:
    """A batch whose row, and so whose range of recipients, no other transaction can change before this one ends."""

    campaign_id: UUID
    first_id: int
    last_id: int
    state: str
    generation: int
    pending: int  # recipients, as are `deferred`
    deferred: int


@dataclass(frozen=True, slots=True)
class Requeued:
    """A batch that waits again."""

    batch_id: int
    campaign_id: UUID
    generation: int  # the new one


@dataclass(frozen=True, slots=True)
class Cut:
    """A new batch, and where its range ends."""

    batch_id: int
    last_id: int
    size: int


async def lock(connection: AsyncConnection, batch_id: int, generation: int | None = None) -> Locked | None:
    """Locks a batch until the transaction ends, and takes it out of its campaign's rollup: its counts may change.

    None if it does not exist, or has another generation than given."""
    conditions = [col(Batch.id) == batch_id]
    if generation is not None:
        conditions.append(col(Batch.generation) == generation)
    row = await rows.lock(
        connection,
        Batch.size,
        *conditions,
        returning=(
            col(Batch.campaign_id),
            col(Batch.first_id),
            col(Batch.last_id),
            col(Batch.state),
            col(Batch.generation),
            col(Batch.pending),
            col(Batch.deferred),
            col(Batch.rolled_up),
        ),
    )
    if row is None:
        return None
    *locked, rolled_up = row
    if rolled_up:
        await rollups.take_out(connection, [batch_id])
    return Locked(*locked)


async def lock_all(connection: AsyncConnection, batch_ids: Collection[int]) -> None:
    """The same for several batches, in the order of their ids, to avoid deadlocks."""
    if not batch_ids:
        return
    locked = await connection.execute(
        select(col(Batch.id), col(Batch.rolled_up))
        .where(col(Batch.id).in_(batch_ids))
        .order_by(col(Batch.id))
        .with_for_update(key_share=True)  # SQLite has locked everything already
    )
    if inside := [row.id for row in locked if row.rolled_up]:
        await rollups.take_out(connection, inside)


async def move(
    connection: AsyncConnection,
    to: BatchState,
    *conditions: ColumnElement[bool],
    from_: Collection[BatchState] | None = None,
    returning: Sequence[Any] = (Batch.id, Batch.campaign_id, Batch.generation),
    **values: Any,
) -> Sequence[Row[*tuple[Any, ...]]]:
    """Executes `moving`; returns the columns `returning` of each batch that moved."""
    statement = moving(to, *conditions, from_=from_, returning=returning, **values)
    moved: Sequence[Row[*tuple[Any, ...]]] = (await connection.execute(statement)).all()
    return moved


def moving(
    to: BatchState,
    *conditions: ColumnElement[bool],
    from_: Collection[BatchState] | None = None,
    returning: Sequence[Any] = (Batch.id, Batch.campaign_id, Batch.generation),
    **values: Any,
) -> ReturningUpdate[Any]:
    """The update that moves every batch that meets the conditions to `to`, and raises its generation.

    Only from the states that BATCH_TRANSITIONS allows; `from_` narrows them. `values` are other columns to set.
    Concurrent moves of one batch: the first wins."""
    sources = [source for source in before(to) if from_ is None or source in from_]
    if not sources:
        raise ValueError(f"no batch moves to {to} from {from_}")
    guard = () if set(sources) == set(BatchState) else (in_state(*sources),)
    return (
        update(Batch)
        .where(*conditions, *guard)
        .values(state=to.value, generation=col(Batch.generation) + 1, **values)
        .returning(*returning)
    )


async def create(connection: AsyncConnection, campaign_id: UUID, cut: Range, state: BatchState, **values: Any) -> int:
    """Adds a batch of generation 1 for a range of recipients that no other batch covers; returns its id."""
    if state not in NEW_BATCH:
        raise ValueError(f"no batch starts as {state}")
    new = {"due_at": db_now(), **values}
    created = await connection.execute(
        insert(Batch)
        .values(
            campaign_id=campaign_id,
            first_id=cut.first_id,
            last_id=cut.last_id,
            size=cut.size,
            state=state.value,
            generation=1,
            **new,
        )
        .returning(col(Batch.id))
    )
    return int(created.scalar_one())


async def cut(
    connection: AsyncConnection, campaign_id: UUID, after: int, *, batches: int, emails: int, rate: float | None
) -> Sequence[Cut]:
    """Releases up to so many new batches of up to so many emails, for the next recipients of a campaign, and moves its
    cursor, if it is being sent and its cursor is at `after`. Fewer if no more recipients are left.

    `rate`: the lowest limit per second that it is under. Call it in a writing transaction."""
    if connection.dialect.name == "postgresql":
        await connection.execute(NEVER_SORT)
        values = {"campaign_id": campaign_id, "after": after, "until": LARGEST_ID, "rate": rate}
        values |= {"most": batches * emails, "emails": emails}
        return [Cut(*row) for row in await connection.execute(_CUT, values)]
    done: list[Cut] = []
    while len(done) < batches:
        new = await _cut_on_sqlite(connection, campaign_id, after, emails, rate)
        if new is None:
            break
        done.append(new)
        after = new.last_id
        if new.size < emails:
            break
    return done


async def _cut_on_sqlite(
    connection: AsyncConnection, campaign_id: UUID, after: int, most: int, rate: float | None
) -> Cut | None:
    """One batch in three statements, because SQLite does not write in a WITH."""
    found = await campaigns.next_range(connection, campaign_id, after, most)
    unmoved = (col(Campaign.cursor) == after, campaigns.in_status(CampaignStatus.SENDING))
    if found is None or not await campaigns.move_cursor(connection, campaign_id, found.last_id, *unmoved):
        return None
    span_seconds = None if rate is None else found.size / rate
    released = {"pending": found.size, "released_at": db_now(), "span_seconds": span_seconds}
    batch_id = await create(connection, campaign_id, found, BatchState.RELEASED, **released)
    return Cut(batch_id, found.last_id, found.size)


def _cutting() -> ReturningInsert[int, int, int]:
    """Finds the ranges, moves the cursor and adds the batches, in this order. Of two at the same time, the second waits
    for the row of the campaign, finds that its cursor has moved, and adds nothing."""
    ids = campaigns.next_ids().subquery()
    found = select(func.array_agg(ids.c.id, type_=ARRAY(BigInteger)).label("ids"), func.count().label("size")).cte(
        "found"
    )
    size = select(found.c.size).scalar_subquery()
    moved = (
        update(Campaign)
        .where(
            col(Campaign.id) == bindparam("campaign_id"),
            col(Campaign.cursor) == bindparam("after"),
            campaigns.in_status(CampaignStatus.SENDING),
            size > 0,
        )
        .values(cursor=select(found.c.ids[found.c.size]).scalar_subquery())
        .returning(col(Campaign.id))
        .cte("moved")
    )
    emails = bindparam("emails", type_=Integer)
    starts = func.generate_series(0, found.c.size - 1, emails).table_valued("before").render_derived()
    before = starts.c.before
    of_batch = func.least(emails, found.c.size - before)
    values: dict[str, Any] = {
        "campaign_id": moved.c.id,
        "first_id": found.c.ids[before + 1],
        "last_id": found.c.ids[before + of_batch],
        "size": of_batch,
        "pending": of_batch,
        "state": literal_column(f"'{BatchState.RELEASED.value}'"),
        "released_at": db_now(),
        "due_at": db_now(),
        "span_seconds": of_batch / bindparam("rate", type_=Float),
    }
    return (
        insert(Batch)
        .from_select([*values], select(*values.values()).select_from(found.join(moved, true()).join(starts, true())))
        .add_cte(found, moved)
        .returning(col(Batch.id), col(Batch.last_id), col(Batch.size))
    )


_CUT = _cutting()


async def release(
    connection: AsyncConnection, batch_id: int, generation: int, *, due_at: Any, span_seconds: float | None
) -> bool:
    """Releases a waiting batch of this generation; False if it has moved on, or is in a rollup: lock it first."""
    released = await move(
        connection,
        BatchState.RELEASED,
        col(Batch.id) == batch_id,
        col(Batch.generation) == generation,
        ~col(Batch.rolled_up),
        released_at=db_now(),
        due_at=due_at,
        span_seconds=span_seconds,
    )
    return bool(released)


@cache
def _finishing(*, keep_date: bool) -> ReturningUpdate[Any]:
    values: Mapping[str, Any] = _FREE if keep_date else {**_FREE, "dated_at": None}
    ours = (col(Batch.id) == bindparam("batch_id"), col(Batch.generation) == bindparam("its_generation"))
    return moving(BatchState.DONE, *ours, col(Batch.pending) == 0, col(Batch.deferred) == 0, **values)


async def finish(connection: AsyncConnection, batch_id: int, generation: int, *, keep_date: bool = True) -> bool:
    """Marks a batch that is being sent at this generation as done. False if a recipient is open, or it has moved on."""
    ours = {"batch_id": batch_id, "its_generation": generation}
    return bool((await connection.execute(_finishing(keep_date=keep_date), ours)).all())


async def finish_alone(ledger: Ledger, batch_id: int, generation: int, *, keep_date: bool) -> bool:
    """`finish`, as a whole transaction."""
    ours = {"batch_id": batch_id, "its_generation": generation}
    return bool(await ledger.write_alone(_finishing(keep_date=keep_date), ours))


async def cancel(connection: AsyncConnection, batch_id: int) -> Range | None:
    """Closes a batch that no sender holds, so that its tickets are stale, and returns its range.

    None if a sender has claimed it meanwhile. The caller closes the recipients in the same transaction."""
    cancelled = await move(
        connection,
        BatchState.CANCELLED,
        col(Batch.id) == batch_id,
        returning=(col(Batch.first_id), col(Batch.last_id), col(Batch.size)),
        **_FREE,
    )
    return Range(*cancelled[0]) if cancelled else None


async def requeue(
    connection: AsyncConnection,
    *conditions: ColumnElement[bool],
    due_in_seconds: float = 0.0,
    rescued: int = 0,
    given_back: bool = False,
) -> Sequence[Requeued]:
    """Makes every batch that meets the conditions wait for `due_in_seconds`: retry, resume and rescue alike.
    `rescued`: points, see MOST_FRUITLESS. `given_back`: by its owner, which did no harm to it nor it to its owner.

    An owner that still holds one finds another generation. The conditions name the generation or the lease that was
    seen, so that two concurrent calls requeue a batch once."""
    values = {**_FREE, "due_at": db_now() + due_in_seconds}
    if rescued:
        values |= rescued_values(rescued)
    if given_back:
        values |= {"fruitless": 0, "rescued_mark": None}
    return [Requeued(*row) for row in await move(connection, BatchState.WAITING, *conditions, **values)]


def rescued_values(points: int) -> dict[str, Any]:
    """What a rescue counts: all of them, and the points of those without progress since the one before."""
    # An email that is sent or fails takes 2 or 1 from it, one that is deferred for the first time 1.
    mark = 2 * col(Batch.pending) + col(Batch.deferred)
    fruitless = case((col(Batch.rescued_mark) == mark, col(Batch.fruitless) + points), else_=points)
    return {"rescues": col(Batch.rescues) + 1, "fruitless": fruitless, "rescued_mark": mark}


async def forgive(connection: AsyncConnection, batch_id: int) -> None:
    """It may be rescued as often again. Its campaign has paused because of it."""
    await connection.execute(update(Batch).where(col(Batch.id) == batch_id).values(fruitless=0, rescued_mark=None))


def lease_expired() -> ColumnElement[bool]:
    """The owner's lease has expired by the database's clock."""
    return in_state(BatchState.SENDING) & (col(Batch.lease_until) < db_now())


def takes_place() -> ColumnElement[bool]:
    """The batch takes one of its sender's places: it is being sent, has no rate limit, and is not nearly done."""
    return in_state(BatchState.SENDING) & col(Batch.span_seconds).is_(None) & ~is_nearly_done()


def is_nearly_done() -> ColumnElement[bool]:
    """At least nine tenths of the batch have a result."""
    return col(Batch.pending) * NEARLY_OUT <= col(Batch.size)


def in_state(*states: BatchState) -> ColumnElement[bool]:
    """`state` is one of `states`. If all of them are live, it uses the words of the partial indexes of live batches.

    The values are written into the statement, not bound, so that both databases recognise those indexes."""
    if set(states) < set(LIVE):
        return and_(_among(LIVE), _among(states))
    return _among(LIVE) if set(states) == set(LIVE) else _among(states)


def _among(states: Sequence[BatchState]) -> ColumnElement[bool]:
    return col(Batch.state).in_([literal_column(f"'{state.value}'") for state in states])

"""A batch from claim to end: claim it, resume it, renew its lease, look at it, let it go."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    Float,
    Select,
    String,
    bindparam,
    case,
    exists,
    func,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.dml import ReturningUpdate
from sqlmodel import col

from shared.ledger import batches, rows, timeline
from shared.ledger.batches import Requeued, in_state
from shared.ledger.database import Ledger, db_now
from shared.ledger.models import Batch, Campaign, Recipient, Suppression
from shared.ledger.outbox_tables import EventStream
from shared.ledger.states import BatchState, CampaignStatus, RecipientStatus

NEWLY_DATED_SECONDS = 0.05
"""`dated_at` and `claimed_at` of one update differ by less than this; two claims of a batch by far more, because a
restart or an expired lease lies between them."""

KEYS_AT_ONCE = 1000
"""Keys of addresses in one statement."""

_WANTS_EVENTS: ColumnElement[bool] = func.coalesce(
    literal_column(
        "(SELECT s.wanted FROM event_stream AS s JOIN campaign AS c ON c.project_id = s.project_id"
        " WHERE c.id = batch.campaign_id)",
        Boolean,
    ),
    literal_column("false"),
)
"""Whether the project of `batch` wants facts in the outbox. As text: in RETURNING, SQLAlchemy names columns for SQLite
without their tables."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A claimed batch. Seconds are relative to the claim, so that no two clocks are compared."""

    batch_id: int
    campaign_id: UUID
    generation: int
    # The range of recipient ids, and how many recipients are in it.
    first_id: int
    last_id: int
    size: int
    # The moment its emails carry as their Date, in seconds since 1970.
    dated_at: float
    # This claim set `dated_at`: no body has left under it yet.
    is_newly_dated: bool
    # When its first email may start; negative if it was due earlier.
    starts_in_seconds: float
    # Its campaign or project has a limit per second, so it takes no place of its sender.
    is_limited: bool
    # Its project wants facts in the outbox.
    wants_events: bool = False
    # Its Message-IDs and MAIL FROM have tokens; false if release 0.1.0 has begun to send it.
    has_tokens: bool = True


class Ticket(NamedTuple):
    """A released batch, to be claimed at this generation."""

    batch_id: int
    generation: int


@dataclass(frozen=True, slots=True)
class LetGo:
    """How a batch was left."""

    state: str  # `done`, `waiting` or `lost`
    deferred: int = 0  # recipients that will be tried again


class Look(NamedTuple):
    """What the ledger says of a held batch."""

    generation: int
    campaign_status: str
    overdue: bool  # its campaign's deliver_by has passed
    wants_events: bool = False  # its project wants facts in the outbox


def _claiming(state: BatchState, *conditions: ColumnElement[bool], **values: Any) -> ReturningUpdate[Any]:
    """The update that claims batches in this state whose campaign is being sent and not past deliver_by, for
    `its_owner` and `lease_seconds`. It returns the members of Claim."""
    return batches.moving(
        BatchState.SENDING,
        *conditions,
        exists().where(
            col(Campaign.id) == col(Batch.campaign_id),
            col(Campaign.status) == CampaignStatus.SENDING.value,
            or_(col(Campaign.deliver_by).is_(None), col(Campaign.deliver_by) > db_now()),
        ),
        from_=(state,),
        owner=bindparam("its_owner"),
        lease_until=db_now() + bindparam("lease_seconds", type_=Float),
        claimed_at=db_now(),
        dated_at=func.coalesce(col(Batch.dated_at), db_now()),
        has_tokens=case((col(Batch.dated_at).is_(None), True), else_=col(Batch.has_tokens)),
        returning=(
            col(Batch.id),
            col(Batch.campaign_id),
            col(Batch.generation),
            col(Batch.first_id),
            col(Batch.last_id),
            col(Batch.size),
            func.coalesce(col(Batch.dated_at), 0.0),
            col(Batch.claimed_at) - col(Batch.dated_at) < NEWLY_DATED_SECONDS,
            col(Batch.due_at) - db_now(),
            # Not `is_not(None)`: in RETURNING, SQLite 3.40 finds it true of every row.
            func.coalesce(col(Batch.span_seconds), 0.0) > 0,
            _WANTS_EVENTS,
            func.coalesce(col(Batch.has_tokens), False),
        ),
        **values,
    )


_CLAIM = _claiming(
    BatchState.RELEASED,
    col(Batch.id) == bindparam("batch_id"),
    col(Batch.generation) == bindparam("its_generation"),
)


async def claim(ledger: Ledger, batch_id: int, generation: int, owner: str, lease_seconds: float) -> Claim | None:
    """Claims a released batch with one conditional update. None: the ticket is stale (claimed, rescued, paused,
    cancelled or late)."""
    values = {
        "batch_id": batch_id,
        "its_generation": generation,
        "its_owner": owner,
        "lease_seconds": lease_seconds,
    }
    claimed = await ledger.write_alone(_CLAIM, values)
    return Claim(*claimed[0]) if claimed else None


async def resume(
    ledger: Ledger, owner: str, lease_seconds: float, limit: int
) -> tuple[Sequence[Claim], Sequence[Requeued]]:
    """Claims again, at the next generation, up to `limit` batches that `owner` held; requeues the others it held, such
    as those of a paused campaign. Only for the owner whose slot lock this process holds: no other process is it."""
    held = (
        select(col(Batch.id))
        .where(
            col(Batch.owner) == owner,
            col(Batch.state) == BatchState.SENDING.value,
            # One that may have ended this process again and again waits for the dispatcher, which pauses its campaign.
            col(Batch.fruitless) < batches.MOST_FRUITLESS - batches.RESTART_POINTS,
        )
        .order_by(col(Batch.claimed_at))
        .limit(limit)
    )
    async with ledger.write() as connection:
        claimed = await connection.execute(
            _claiming(
                BatchState.SENDING,
                col(Batch.id).in_(held),
                span_seconds=func.nullif(col(Batch.span_seconds), 0.0),  # see only_waits
                **batches.rescued_values(batches.RESTART_POINTS),
            ),
            {"its_owner": owner, "lease_seconds": lease_seconds},
        )
        resumed = [Claim(*row) for row in claimed]
        requeued = await batches.requeue(
            connection,
            col(Batch.owner) == owner,
            col(Batch.state) == BatchState.SENDING.value,
            col(Batch.id).not_in([claim.batch_id for claim in resumed]),
            rescued=batches.RESTART_POINTS,
        )
        for claim in resumed:
            text = "A sender restarted and resumed its batches"
            await timeline.record(connection, claim.campaign_id, "rescued", text)
        for batch in requeued:
            text = "A sender restarted and gave its batches back"
            await timeline.record(connection, batch.campaign_id, "rescued", text)
    return resumed, requeued


_PATIENCE = bindparam("patience_seconds", type_=Float)
_OVERLOOKED = (
    select(col(Batch.id), col(Batch.generation))
    .where(in_state(BatchState.RELEASED), col(Batch.released_at) < db_now() - _PATIENCE)
    .order_by(col(Batch.released_at))
    .limit(1)
)


async def overlooked(ledger: Ledger, patience_seconds: float) -> Ticket | None:
    """The batch released first, if its ticket must be late or lost by now: `patience_seconds` after the release."""

    async def work(connection: AsyncConnection) -> Ticket | None:
        row = (await connection.execute(_OVERLOOKED, {"patience_seconds": patience_seconds})).first()
        return Ticket(*row) if row is not None else None

    return await ledger.read_at_once(work)


async def renew(ledger: Ledger, batch_id: int, generation: int, lease_seconds: float) -> bool:
    """Renews the lease. False: the batch is lost."""
    async with ledger.write() as connection:
        changed = await connection.execute(
            update(Batch)
            .where(col(Batch.id) == batch_id, col(Batch.generation) == generation)
            .values(lease_until=db_now() + lease_seconds)
        )
        return changed.rowcount == 1


async def only_waits(ledger: Ledger, held: Claim) -> None:
    """Tells the dispatcher that the batch takes no place of its sender any more: its rows wait for their provider."""
    async with ledger.write() as connection:
        await connection.execute(
            update(Batch)
            .where(col(Batch.id) == held.batch_id, col(Batch.generation) == held.generation)
            .where(col(Batch.span_seconds).is_(None))
            .values(span_seconds=0.0)
        )


def _look_at(batch_ids: ColumnElement[bool]) -> Select[*tuple[Any, ...]]:
    return (
        select(
            col(Batch.id),
            col(Batch.generation),
            col(Campaign.status),
            func.coalesce(col(Campaign.deliver_by) <= db_now(), False),
            func.coalesce(col(EventStream.wanted), False),
        )
        .join(Campaign, col(Campaign.id) == col(Batch.campaign_id))
        .outerjoin(EventStream, col(EventStream.project_id) == col(Campaign.project_id))
        .where(batch_ids)
    )


_LOOK = rows.among(col(Batch.id), BigInteger, "batch_ids", _look_at)


def _suppressed_of(keys: ColumnElement[bool]) -> Select[*tuple[Any, ...]]:
    return select(col(Suppression.email_key)).where(
        col(Suppression.project_id) == bindparam("its_project"), keys, col(Suppression.provisional).is_not(True)
    )


# The unique index has project and key, so each key costs one probe.
_SUPPRESSED = rows.among(col(Suppression.email_key), String, "keys", _suppressed_of)


async def look(
    ledger: Ledger, batch_ids: Sequence[int], keys: Mapping[UUID, Sequence[str]]
) -> tuple[Mapping[int, Look], Mapping[UUID, Collection[str]]]:
    """How these batches and their campaigns stand, by batch id, without those that are gone; and which of the keys of
    addresses, by project, are suppressed now.

    Every look asks for all of them: there is no "since the last look", because suppressions are not committed in the
    order of their ids."""
    found = await ledger.read_alone(_LOOK[ledger.dialect], {"batch_ids": list(batch_ids)})
    suppressed = {project_id: await _suppressed(ledger, project_id, some) for project_id, some in keys.items()}
    return {row[0]: Look(row[1], row[2], bool(row[3]), bool(row[4])) for row in found}, suppressed


async def _suppressed(ledger: Ledger, project_id: UUID, keys: Sequence[str]) -> Collection[str]:
    """Those that are suppressed."""
    suppressed = set[str]()
    for start in range(0, len(keys), KEYS_AT_ONCE):
        values = {"its_project": project_id, "keys": keys[start : start + KEYS_AT_ONCE]}
        suppressed.update(key for (key,) in await ledger.read_alone(_SUPPRESSED[ledger.dialect], values))
    return suppressed


async def let_go(
    ledger: Ledger,
    held: Claim,
    *,
    retry_jitter: float = 0.0,
    rest_seconds: float = 0.0,
    keep_date: bool = True,
    yielded: str = "",
) -> LetGo:
    """Ends the hold on a batch, once all its results are recorded: `done` if nothing is open, else `waiting`.

    A batch with pending recipients is due again after `rest_seconds`; one with deferred ones only, when the first is
    due, and by the share `retry_jitter` of that wait later. Unless `keep_date`, the next claim gives its emails a new
    Date. `yielded` says in the timeline why an unfinished batch is given back."""
    if await batches.finish_alone(ledger, held.batch_id, held.generation, keep_date=keep_date):
        return LetGo(BatchState.DONE.value)
    async with ledger.write() as connection:
        batch = await batches.lock(connection, held.batch_id, held.generation)
        if batch is None:
            return LetGo("lost")
        ours = (col(Batch.id) == held.batch_id, col(Batch.generation) == held.generation)
        if not keep_date:
            await connection.execute(update(Batch).where(*ours).values(dated_at=None))
        if await batches.finish(connection, held.batch_id, held.generation):  # its last recipient was erased meanwhile
            return LetGo(BatchState.DONE.value)
        if yielded:
            await timeline.record(connection, held.campaign_id, "yielded", f"A batch was given back: {yielded}")
        due_in = rest_seconds
        if batch.pending == 0:
            due_in = await _first_due(connection, held) * (1 + retry_jitter)
        await batches.requeue(connection, *ours, due_in_seconds=due_in, given_back=True)
        if batch.deferred:
            text = f"{batch.deferred} will be tried again"
            await timeline.record(connection, held.campaign_id, "deferred", text)
    return LetGo(BatchState.WAITING.value, batch.deferred)


async def _first_due(connection: AsyncConnection, held: Claim) -> float:
    """Seconds until the first deferred recipient of the batch is due."""
    first_due = await connection.execute(
        select(func.min(col(Recipient.next_attempt_at)) - db_now()).where(
            col(Recipient.campaign_id) == held.campaign_id,
            col(Recipient.id).between(held.first_id, held.last_id),
            col(Recipient.status) == RecipientStatus.DEFERRED.value,
        )
    )
    return max(first_due.scalar_one() or 0.0, 0.0)

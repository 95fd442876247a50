"""The one operation that retry, resume and rescue share: the same range again, generation + 1, not before due_at."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, and_, literal_column, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from shared.ledger.database import db_now
from shared.ledger.models import Batch
from shared.ledger.states import LIVE, BatchState

NEARLY_OUT = 10
"""Of a batch at work no more than one recipient in so many is without a result: it mostly waits for replies."""


@dataclass(frozen=True, slots=True)
class Requeued:
    """A batch as it stands after it was taken back; `generation` is the new one."""

    batch_id: int
    campaign_id: UUID
    generation: int


async def requeue(
    connection: AsyncConnection,
    *conditions: ColumnElement[bool],
    due_in_seconds: float = 0.0,
    rescued: bool = False,
) -> Sequence[Requeued]:
    """Takes back every batch that meets the conditions, in one update: who held it finds another generation.

    The conditions name the generation or the lease that was seen, so two who try at once do it once."""
    values: dict[str, Any] = {
        "state": BatchState.WAITING.value,
        "generation": col(Batch.generation) + 1,
        "owner": None,
        "lease_until": None,
        "released_at": None,
        "due_at": db_now() + due_in_seconds,
    }
    if rescued:
        values["rescues"] = col(Batch.rescues) + 1
    rows = await connection.execute(
        update(Batch)
        .where(*conditions)
        .values(**values)
        .returning(col(Batch.id), col(Batch.campaign_id), col(Batch.generation))
    )
    return [Requeued(row[0], row[1], row[2]) for row in rows]


def lease_expired() -> ColumnElement[bool]:
    """The ledger's confirmation that a batch is nobody's: by the database's clock alone."""
    return in_state(BatchState.SENDING) & (col(Batch.lease_until) < db_now())


def holds_slot() -> ColumnElement[bool]:
    """It is being sent, and a sender may be too busy with it to take another: neither limited nor nearly all out."""
    is_nearly_out = col(Batch.pending) * NEARLY_OUT <= col(Batch.size)
    return in_state(BatchState.SENDING) & col(Batch.span_seconds).is_(None) & ~is_nearly_out


def in_state(*states: BatchState) -> ColumnElement[bool]:
    """`state` is one of these live states, in the words of the indexes of live batches. Written into the statement, not
    bound: only so do both databases see that a partial index answers the question."""
    return and_(_among(LIVE), _among(states)) if set(states) != set(LIVE) else _among(LIVE)


def _among(states: Sequence[BatchState]) -> ColumnElement[bool]:
    return col(Batch.state).in_([literal_column(f"'{state.value}'") for state in states])

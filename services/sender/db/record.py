"""Group commit: results of several batches in one transaction, which also renews their leases.

The usual way: for each batch `UPDATE batch ... WHERE id AND generation` (the lock of its range, with the changes of its
counts), then one `UPDATE recipient` for all rows, each guarded by the status and attempts it was read with. Only when
fewer rows changed than expected, the careful way looks at each row. Counts come from rows really changed.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

import orjson
from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from services.sender.db.record_sql import RECORD_POSTGRESQL, WRITE_POSTGRESQL, WRITE_SQLITE, rows_json
from services.sender.results import Result
from shared.ledger.database import Ledger, db_now
from shared.ledger.models import Batch, Recipient, Suppression
from shared.ledger.states import RecipientStatus

DIVISION_BY_ZERO = "22012"


@dataclass(slots=True)
class Group:
    """Results of one batch at one generation, to be recorded together. `intents` are recipients whose body is about to
    leave under at_most_once."""

    batch_id: int
    generation: int
    campaign_id: UUID
    project_id: UUID
    results: list[Result] = field(default_factory=list)
    intents: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Recorded:
    """What came of a group: `lost` when the batch was not ours any more. `results`: those that the ledger now has from
    us, with `lost` only facts. `known_duplicates`: emails that a relay accepted although the ledger already had them as
    sent."""

    results: Sequence[Result] = ()
    lost: bool = False
    known_duplicates: int = 0


class _SurpriseError(Exception):
    """A row was not as expected: roll back and look at each."""


async def record(ledger: Ledger, groups: Sequence[Group], lease_seconds: float) -> dict[int, Recorded]:
    """Records all groups, or none and raises. Returns by batch id. Repeating a call is harmless."""
    groups = sorted(groups, key=lambda group: group.batch_id)  # one order for all, so that no two wait for each other
    plain = not any(group.intents or any(result.suppress for result in group.results) for group in groups)
    try:
        if plain and not ledger.is_sqlite:
            await _record_in_one_statement(ledger, groups, lease_seconds)
        else:
            await _record_in_one_transaction(ledger, groups, lease_seconds)
        return {group.batch_id: Recorded(group.results) for group in groups}
    except _SurpriseError:
        return {group.batch_id: await _record_carefully(ledger, group, lease_seconds) for group in groups}


async def _record_in_one_statement(ledger: Ledger, groups: Sequence[Group], lease_seconds: float) -> None:
    """PostgreSQL does all of it in one round trip; it divides by zero, and so rolls back, where a row was not found."""
    changes = [result for group in groups for result in group.results]
    batches = [{"id": group.batch_id, "generation": group.generation, **_deltas(group.results)} for group in groups]
    values = {
        "batches": orjson.dumps(batches).decode(),
        "rows": rows_json(changes),
        "lease": lease_seconds,
        "batch_count": len(batches),
        "row_count": len(changes),
    }
    try:
        async with ledger.autocommit() as connection:
            await connection.execute(RECORD_POSTGRESQL, values)
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) == DIVISION_BY_ZERO:
            raise _SurpriseError from None
        raise


async def _record_in_one_transaction(ledger: Ledger, groups: Sequence[Group], lease_seconds: float) -> None:
    async with ledger.write() as connection:
        for group in groups:
            if not await _lock(connection, group, _deltas(group.results), lease_seconds):
                raise _SurpriseError
            await _write_intents(connection, group)
        changes = [result for group in groups for result in group.results]
        if changes and await _write(connection, changes) != len(changes):
            raise _SurpriseError
        for group in groups:
            await _suppress(connection, group)


def _deltas(results: Sequence[Result]) -> Counter[str]:
    """How the counts by status change."""
    deltas = Counter[str]()
    for result in results:
        deltas[result.was] -= 1
        deltas[result.status] += 1
    return deltas


async def _record_carefully(ledger: Ledger, group: Group, lease_seconds: float) -> Recorded:
    """Row by row: when the batch is lost, or when a repeated write meets what its first try has left."""
    async with ledger.write() as connection:
        ours = await _lock(connection, group, Counter(), lease_seconds)
        if ours:
            await _write_intents(connection, group)
        elif not await _lock_late(connection, group.batch_id):
            return Recorded(lost=True)
        ids = [result.recipient_id for result in group.results]
        found = {
            row.id: row
            for row in await connection.execute(
                select(
                    col(Recipient.id),
                    col(Recipient.status),
                    col(Recipient.attempts),
                    col(Recipient.queue_id),
                    col(Recipient.relay),
                ).where(col(Recipient.id).in_(ids))
            )
        }
        changes: list[Result] = []
        stood: list[Result] = []  # from our own first try, whose answer did not reach us
        deltas = Counter[str]()
        duplicates = 0
        for result in group.results:
            row = found.get(result.recipient_id)
            if row is None:
                continue
            as_expected = row.status == result.was and row.attempts == result.attempts_was
            if result.is_fact and row.status == RecipientStatus.SENT:
                # Our own first try left the same relay and queue id; another's email left other ones.
                if (row.queue_id, row.relay) == (result.queue_id, result.relay):
                    stood.append(result)
                else:
                    duplicates += 1
            elif result.is_fact or (ours and as_expected):
                changes.append(_expecting(result, row.status, row.attempts))
                deltas[row.status] -= 1
                deltas[result.status] += 1
            elif ours and (row.status, row.attempts) == (result.status, result.attempts):
                stood.append(result)
        if changes:
            await _write(connection, changes)
            await _count(connection, group.batch_id, deltas)
        if ours:
            await _suppress(connection, group)
        return Recorded([*stood, *changes], lost=not ours, known_duplicates=duplicates)


def _expecting(result: Result, was: str, attempts: int) -> Result:
    return replace(result, was=was, attempts_was=attempts)


async def _lock(connection: AsyncConnection, group: Group, deltas: Counter[str], lease_seconds: float) -> bool:
    """The first statement of every write of results: ours only at our generation."""
    changed = await connection.execute(
        update(Batch)
        .where(col(Batch.id) == group.batch_id, col(Batch.generation) == group.generation)
        .values(lease_until=db_now() + lease_seconds, **_plus(deltas))
    )
    return changed.rowcount == 1


async def _lock_late(connection: AsyncConnection, batch_id: int) -> bool:
    """The lock of the range for a late fact, whoever holds the batch now."""
    changed = await connection.execute(update(Batch).where(col(Batch.id) == batch_id).values(size=col(Batch.size)))
    return changed.rowcount == 1


async def _count(connection: AsyncConnection, batch_id: int, deltas: Counter[str]) -> None:
    values = _plus(deltas)
    if values:
        await connection.execute(update(Batch).where(col(Batch.id) == batch_id).values(**values))


def _plus(deltas: Counter[str]) -> dict[str, object]:
    return {status: getattr(Batch, status) + change for status, change in deltas.items() if change}


async def _write(connection: AsyncConnection, results: Sequence[Result]) -> int:
    statement = WRITE_POSTGRESQL if connection.dialect.name == "postgresql" else WRITE_SQLITE
    return (await connection.execute(statement, {"rows": rows_json(results)})).rowcount


async def _write_intents(connection: AsyncConnection, group: Group) -> None:
    if group.intents:
        await connection.execute(
            update(Recipient).where(col(Recipient.id).in_(group.intents)).values(intent_at=db_now())
        )


async def _suppress(connection: AsyncConnection, group: Group) -> None:
    """Adds the addresses whose mailbox does not exist to the project's suppression list."""
    gone = [result for result in group.results if result.suppress]
    if not gone:
        return
    rows = await connection.execute(
        select(col(Recipient.id), col(Recipient.email_key)).where(
            col(Recipient.id).in_([result.recipient_id for result in gone])
        )
    )
    keys = {row.id: row.email_key for row in rows}
    insert = postgresql_insert if connection.dialect.name == "postgresql" else sqlite_insert
    await connection.execute(
        insert(Suppression)
        .values(created_at=db_now())
        .on_conflict_do_nothing(index_elements=["project_id", "email_key"]),
        [
            {
                "project_id": group.project_id,
                "email": result.email,
                "email_key": keys[result.recipient_id],
                "reason": "bounced",
                "detail": result.reply,
                "campaign_id": group.campaign_id,
            }
            for result in gone
            if result.recipient_id in keys
        ],
    )

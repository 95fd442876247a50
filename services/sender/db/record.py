"""Group commit: results of several batches in one transaction, which also renews their leases.

The usual way: for each batch `UPDATE batch ... WHERE id AND generation` (the lock of its range, with the changes of its
counts), then one `UPDATE recipient` for all rows, each guarded by the status and attempts it was read with. Only when
fewer rows changed than expected, the careful way looks at each row. Counts come from rows really changed.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from services.sender.results import Result
from shared.ledger import batches, recipients, rows
from shared.ledger.database import Ledger, db_now
from shared.ledger.models import Batch, Recipient, Suppression
from shared.ledger.recipients import UnexpectedError
from shared.ledger.states import RecipientStatus


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
    except UnexpectedError:
        return {group.batch_id: await _record_carefully(ledger, group, lease_seconds) for group in groups}


async def _record_in_one_statement(ledger: Ledger, groups: Sequence[Group], lease_seconds: float) -> None:
    """PostgreSQL does all of it in one round trip."""
    changes = [result for group in groups for result in group.results]
    locks = [{"id": group.batch_id, "generation": group.generation, **_deltas(group.results)} for group in groups]
    async with ledger.autocommit() as connection:
        await recipients.record_with_locks(connection, locks, changes, lease_seconds)


async def _record_in_one_transaction(ledger: Ledger, groups: Sequence[Group], lease_seconds: float) -> None:
    async with ledger.write() as connection:
        for group in groups:
            if not await _lock(connection, group, _deltas(group.results), lease_seconds):
                raise UnexpectedError
            await _write_intents(connection, group)
        changes = [result for group in groups for result in group.results]
        if changes and await recipients.record(connection, changes) != len(changes):
            raise UnexpectedError
        for group in groups:
            await _suppress(connection, group)


def _deltas(changes: Sequence[Result]) -> Counter[str]:
    """How the counts by status change."""
    deltas = Counter[str]()
    for result in changes:
        deltas[result.was] -= 1
        deltas[result.status] += 1
    return deltas


async def _record_carefully(ledger: Ledger, group: Group, lease_seconds: float) -> Recorded:
    """Row by row: when the batch is lost, or when a repeated write meets what its first try has left."""
    async with ledger.write() as connection:
        ours = await _lock(connection, group, Counter(), lease_seconds)
        if ours:
            await _write_intents(connection, group)
        elif await batches.lock(connection, group.batch_id) is None:
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
            await recipients.record(connection, changes)
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


async def _count(connection: AsyncConnection, batch_id: int, deltas: Counter[str]) -> None:
    values = _plus(deltas)
    if values:
        await connection.execute(update(Batch).where(col(Batch.id) == batch_id).values(**values))


def _plus(deltas: Counter[str]) -> dict[str, object]:
    return {status: getattr(Batch, status) + change for status, change in deltas.items() if change}


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
    found = await connection.execute(
        select(col(Recipient.id), col(Recipient.email_key)).where(
            col(Recipient.id).in_([result.recipient_id for result in gone])
        )
    )
    keys = {row.id: row.email_key for row in found}
    await connection.execute(
        rows.insert_missing(connection, Suppression).values(created_at=db_now()),
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

"""Group commit: results of several batches in one transaction, which also renews their leases.

Usually it takes one `UPDATE batch ... WHERE id AND generation` for each batch (which locks its range and changes its
counts), then one `UPDATE recipient` for all rows, each guarded by the status and attempts it was read with. If fewer
rows changed than expected, each row is looked at. Counts come from the rows that really changed.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from services.sender.results import Result
from shared.ledger import batches, breakers, outbox, recipients, rows, spread
from shared.ledger.breakers import Noted
from shared.ledger.database import Ledger, db_now
from shared.ledger.models import Batch, Recipient, Suppression
from shared.ledger.outbox import Columns, Packed
from shared.ledger.recipients import UnexpectedError
from shared.ledger.states import RecipientStatus


@dataclass(frozen=True, slots=True)
class Group:
    """What one batch has to record, at one generation."""

    batch_id: int
    generation: int
    campaign_id: UUID
    project_id: UUID
    results: Sequence[Result] = ()
    # Recipient ids, under at_most_once only: a body is about to leave.
    intents: Sequence[int] = ()
    # Recipient ids whose earlier intent is void, because no body left. Written before `intents`.
    withdrawals: Sequence[int] = ()
    # What was seen at relays that refuse nearly everything of the campaign.
    noted: Sequence[Noted] = ()
    # Refusals of the campaign's content or sender.
    shared_refusals: spread.Noted | None = None
    # The project wants its facts in the outbox.
    wants_events: bool = False


@dataclass(frozen=True, slots=True)
class Judged:
    """What the ledger says of a campaign's refusals. Each of the two means that it has to pause."""

    # Relays whose breaker has tripped.
    tripped: Sequence[str] = ()
    # Several recipients were refused in the same words.
    is_widespread: bool = False


UNSUSPICIOUS = Judged()


@dataclass(frozen=True, slots=True)
class Recorded:
    """What came of a group."""

    # Those that the ledger now has from this sender; if the batch is lost, only emails that a relay accepted.
    results: Sequence[Result] = ()
    # Another sender has the batch.
    lost: bool = False
    # Emails that a relay accepted although the ledger already had them as sent.
    known_duplicates: int = 0
    judged: Judged = UNSUSPICIOUS


async def record(ledger: Ledger, groups: Sequence[Group], lease_seconds: float) -> dict[int, Recorded]:
    """Records all groups, or none and raises. Returns what came of each by batch id. Repeating a call is harmless."""
    groups = sorted(groups, key=lambda group: group.batch_id)  # one order everywhere, to avoid deadlocks
    plain = not any(
        group.intents
        or group.withdrawals
        or group.noted
        or group.shared_refusals is not None
        or any(result.suppress for result in group.results)
        for group in groups
    )
    judged: Mapping[int, Judged] = {}
    try:
        if plain and not ledger.is_sqlite:
            await _record_in_one_statement(ledger, groups, lease_seconds)
        else:
            judged = await _record_in_one_transaction(ledger, groups, lease_seconds)
        return {group.batch_id: Recorded(group.results, judged=_of(judged, group)) for group in groups}
    except UnexpectedError:
        return {group.batch_id: await _record_carefully(ledger, group, lease_seconds) for group in groups}


async def _record_in_one_statement(ledger: Ledger, groups: Sequence[Group], lease_seconds: float) -> None:
    """PostgreSQL does it all in one round trip."""
    changes = [result for group in groups for result in group.results]
    locks = [{"id": group.batch_id, "generation": group.generation, **_deltas(group.results)} for group in groups]
    await recipients.record_with_locks(ledger, locks, changes, _told(groups), lease_seconds)


async def _record_in_one_transaction(
    ledger: Ledger, groups: Sequence[Group], lease_seconds: float
) -> Mapping[int, Judged]:
    """Returns what the ledger says of refusals, by batch id."""

    async def work(connection: AsyncConnection) -> Mapping[int, Judged]:
        for group in groups:
            if not await _lock(connection, group, _deltas(group.results), lease_seconds):
                raise UnexpectedError
            await _write_intents(connection, group)
        changes = [result for group in groups for result in group.results]
        if changes and await recipients.record(connection, changes, _told(groups)) != len(changes):
            raise UnexpectedError
        for group in groups:
            await _suppress(connection, group)
        return await _note_refusals(connection, groups)

    return await ledger.write_at_once(work)


def _told(groups: Sequence[Group]) -> Sequence[Packed]:
    """What goes into the outbox: the facts of each project that wants them, in as few rows as possible."""
    by_project = defaultdict[UUID, list[Columns]](list)
    for group in groups:
        if group.wants_events:
            by_project[group.project_id].append(outbox.columns_of_results(group.campaign_id, group.results))
    return [
        row for project_id, parts in by_project.items() for row in outbox.pack_columns(project_id, outbox.join(parts))
    ]


def _deltas(changes: Sequence[Result]) -> Counter[str]:
    """How the counts of a batch change."""
    deltas = Counter[str]()
    for result in changes:
        deltas[result.was] -= 1
        deltas[result.status] += 1
        deltas["gone"] += result.suppress
    return deltas


async def _record_carefully(ledger: Ledger, group: Group, lease_seconds: float) -> Recorded:
    """Row by row: the batch is lost, or this is a repeated write that meets what its first try left."""
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
                    col(Recipient.email),
                ).where(col(Recipient.id).in_(ids))
            )
        }
        changes: list[Result] = []
        stood: list[Result] = []  # written by our first try, whose answer did not arrive
        deltas = Counter[str]()
        duplicates = 0
        for given in group.results:
            row = found.get(given.recipient_id)
            if row is None:
                continue
            is_erased = not row.email
            # What a relay says may name the person.
            result = given._replace(reply=None, queue_id=None, suppress=False) if is_erased else given
            as_expected = row.status == result.was and row.attempts == result.attempts_was
            if result.is_fact and row.status == RecipientStatus.SENT:
                # Our first try left the same relay and queue id; another copy of the email has others.
                if is_erased or (row.queue_id, row.relay) == (result.queue_id, result.relay):
                    stood.append(result)
                else:
                    duplicates += 1
            elif result.is_fact or (ours and as_expected):
                changes.append(_expecting(result, row.status, row.attempts))
                deltas[row.status] -= 1
                deltas[result.status] += 1
                deltas["gone"] += result.suppress
            elif ours and (row.status, row.attempts) == (result.status, result.attempts):
                stood.append(result)
        if changes:
            await recipients.record(connection, changes, _told([replace(group, results=changes)]))
            await _count(connection, group.batch_id, deltas)
        judged = UNSUSPICIOUS
        if ours:
            await _suppress(connection, group)
            judged = _of(await _note_refusals(connection, [group]), group)
        return Recorded([*stood, *changes], lost=not ours, known_duplicates=duplicates, judged=judged)


def _expecting(result: Result, was: str, attempts: int) -> Result:
    return result._replace(was=was, attempts_was=attempts)


async def _lock(connection: AsyncConnection, group: Group, deltas: Counter[str], lease_seconds: float) -> bool:
    """The first statement of every write of results. False: the batch has another generation."""
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
    for recipient_ids, moment in ((group.withdrawals, None), (group.intents, db_now())):
        if recipient_ids:
            await connection.execute(
                update(Recipient).where(col(Recipient.id).in_(recipient_ids)).values(intent_at=moment)
            )


async def _note_refusals(connection: AsyncConnection, groups: Sequence[Group]) -> Mapping[int, Judged]:
    """Notes refusals in one order everywhere, to avoid deadlocks; returns what the ledger says of them by batch id."""
    noted = [(group.campaign_id, one.relay, group, one) for group in groups for one in group.noted]
    tripped: dict[int, list[str]] = {}
    for campaign_id, relay, group, one in sorted(noted, key=lambda entry: entry[:2]):
        if await breakers.note(connection, group.project_id, campaign_id, one):
            tripped.setdefault(group.batch_id, []).append(relay)
    widespread = set()
    for group in sorted(groups, key=lambda group: group.campaign_id):
        if group.shared_refusals is not None and await spread.note(
            connection, group.campaign_id, group.shared_refusals
        ):
            widespread.add(group.batch_id)
    return {
        batch_id: Judged(tripped.get(batch_id, ()), batch_id in widespread) for batch_id in tripped.keys() | widespread
    }


def _of(judged: Mapping[int, Judged], group: Group) -> Judged:
    return judged.get(group.batch_id, UNSUSPICIOUS)


async def _suppress(connection: AsyncConnection, group: Group) -> None:
    """Adds the addresses whose mailbox does not exist to the project's suppression list, but no one who was erased."""
    gone = [result for result in group.results if result.suppress]
    if not gone:
        return
    found = await connection.execute(
        select(col(Recipient.id), col(Recipient.email_key)).where(
            col(Recipient.id).in_([result.recipient_id for result in gone]), col(Recipient.email) != ""
        )
    )
    keys = {row.id: row.email_key for row in found}
    gone = [result for result in gone if result.recipient_id in keys]
    if not gone:
        return
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
        ],
    )

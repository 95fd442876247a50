"""The work of erasures: everything that names a person is searched, phase by phase and in small transactions.

A transaction does one chunk, and moves the cursor of the erasure, whose row it has locked. So a killed process loses
nothing, and several processes may work on one erasure.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any
from uuid import UUID

from sqlalchemy import Row, and_, case, delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from services.api.usecases import erased_texts
from services.api.usecases.erasure import FIRST_PHASE
from services.api.usecases.erasure_steps import Person, Phase, Progress, Step
from shared.address_text import Mentions
from shared.addresses import Address
from shared.ledger import batches, outbox, recipients, rows
from shared.ledger.database import Ledger, clock, db_now
from shared.ledger.erasure_tables import UNFINISHED, Erasure
from shared.ledger.facts import OF_RECIPIENT, Fact
from shared.ledger.models import Batch, Campaign, Recipient, Suppression
from shared.ledger.report_people import BATCH_OF_RECIPIENT
from shared.ledger.report_tables import Report
from shared.ledger.states import OPEN, BatchState, RecipientStatus

SETTLE_SECONDS = 3.0
"""From the suppression on. By then every sender has seen it (LOOK_VALID_SECONDS of services.sender.held_batch), and
starts no email to the person; what comes back later finds the recipient closed."""

CAMPAIGNS_AT_ONCE = 100
REPORTS_AT_ONCE = 500

_COUNTED = (*OPEN, RecipientStatus.CANCELLED, RecipientStatus.UNKNOWN)


async def due(connection: AsyncConnection) -> Sequence[int]:
    """Erasures to work on, the oldest first."""
    found = await connection.scalars(
        select(col(Erasure.id))
        .where(UNFINISHED, col(Erasure.asked_at) < db_now() - SETTLE_SECONDS)
        .order_by(col(Erasure.asked_at))
        .limit(1000)
    )
    return found.all()


async def count_unfinished(connection: AsyncConnection) -> int:
    return await connection.scalar(select(func.count()).select_from(Erasure).where(UNFINISHED)) or 0


async def step(ledger: Ledger, erasure_id: int) -> Progress:
    """Does one chunk of an erasure."""
    async with ledger.write() as connection:
        found = await rows.lock(
            connection,
            Erasure.phase,
            col(Erasure.id) == erasure_id,
            UNFINISHED,
            returning=(
                *(col(Erasure.project_id), col(Erasure.email), col(Erasure.email_key)),
                *(col(Erasure.phase), col(Erasure.cursor)),
            ),
        )
        if found is None:
            return Progress.GONE
        address = Address(found.email, found.email_key)
        person = Person(found.project_id, address, Mentions(address))
        done = await _PHASES[found.phase](connection, person, found.cursor)
        if done.waits:
            return Progress.WAITS
        here = update(Erasure).where(col(Erasure.id) == erasure_id)
        await connection.execute(here.values(cursor=done.cursor, recipients=col(Erasure.recipients) + done.recipients))
        if done.cursor is not None:
            return Progress.MORE
        following = _AFTER.get(found.phase)
        if following is not None:
            await connection.execute(here.values(phase=following))
            return Progress.MORE
        await _suppress_by_hash_only(connection, person)
        await connection.execute(here.values(email=None, email_key=None, finished_at=db_now()))
        return Progress.DONE


async def _suppress_by_hash_only(connection: AsyncConnection, person: Person) -> None:
    await connection.execute(
        delete(Suppression).where(
            col(Suppression.project_id) == person.project_id, col(Suppression.email_key) == person.address.key
        )
    )


async def _campaigns(connection: AsyncConnection, person: Person, cursor: str | None) -> Step:
    """The person's recipients, and the texts of their campaigns."""
    query = select(col(Campaign.id)).where(col(Campaign.project_id) == person.project_id)
    if cursor is not None:
        query = query.where(col(Campaign.id) > UUID(cursor))
    found = await connection.scalars(query.order_by(col(Campaign.id)).limit(CAMPAIGNS_AT_ONCE))
    ids = found.all()
    if not ids:
        return Step(None)
    await erased_texts.in_campaigns(connection, person.mentions, ids)
    erased = await _recipients(connection, person, ids)
    await erased_texts.of_campaigns(connection, person.mentions, ids)
    return Step(str(ids[-1]), erased)


async def _recipients(connection: AsyncConnection, person: Person, campaign_ids: Sequence[UUID]) -> int:
    """Cancels those that are open, and blanks all. One that no batch covers yet stays pending, as the counts have it:
    the sender that comes to it cancels it."""
    query = select(col(Recipient.id), col(Recipient.status), BATCH_OF_RECIPIENT.label("batch_id")).where(
        col(Recipient.campaign_id).in_(campaign_ids), col(Recipient.email_key) == person.address.key
    )
    locked = {row.batch_id for row in await connection.execute(query) if row.batch_id is not None}
    await batches.lock_all(connection, locked)
    found = (await connection.execute(query)).all()  # as they are under the locks
    if not found:
        return 0
    mine = {row.id: row for row in found if row.batch_id in locked}
    closed = await recipients.cancel_some(connection, sorted(mine))
    await _count(connection, mine, closed)
    facts = [Fact(OF_RECIPIENT[row.status], row.campaign_id, row.id) for row in closed]
    await outbox.tell(connection, person.project_id, facts)
    await recipients.blank(connection, sorted(row.id for row in found))
    return len(found)


async def _count(
    connection: AsyncConnection, before: Mapping[int, Row[Any]], closed: Sequence[Row[int, UUID, str]]
) -> None:
    """Changes the counts of the batches. One that has nothing left to send need not wait for a retry."""
    deltas = defaultdict[int, Counter[str]](Counter)
    for row in closed:
        was = before[row.id]
        deltas[was.batch_id][was.status] -= 1
        deltas[was.batch_id][row.status] += 1
    for batch_id, changes in sorted(deltas.items()):
        await connection.execute(
            update(Batch)
            .where(col(Batch.id) == batch_id)
            .values({name: getattr(Batch, name) + changes[name] for name in _COUNTED if changes[name]})
        )
    if deltas:
        waits_for_nothing = and_(
            batches.in_state(BatchState.WAITING), col(Batch.pending) == 0, col(Batch.deferred) == 0
        )
        await connection.execute(
            update(Batch)
            .where(col(Batch.id).in_(deltas), waits_for_nothing)
            .values(due_at=case((col(Batch.due_at) > db_now(), db_now()), else_=col(Batch.due_at)))
        )


async def _senders(connection: AsyncConnection, person: Person, cursor: str | None) -> Step:
    """Waits until no sender can have a recipient as it was: every batch was let go that was claimed before the last one
    was erased. Until then the address has to stay suppressed. A sender holds a batch for some minutes at most."""
    if cursor is None:
        return Step(str(await clock(connection)))
    held = (
        select(col(Batch.id))
        .join(Campaign, col(Campaign.id) == col(Batch.campaign_id))
        .where(
            col(Campaign.project_id) == person.project_id,
            batches.in_state(BatchState.SENDING),
            col(Batch.claimed_at) <= float(cursor),
        )
        .limit(1)
    )
    return Step(None) if await connection.scalar(held) is None else Step(cursor, waits=True)


async def _reports(connection: AsyncConnection, person: Person, _cursor: str | None) -> Step:
    """What came back about the person's emails keeps its kind. Unverified reports say nothing without the address."""
    key = col(Report.email_key) == person.address.key
    whose = or_(col(Report.project_id) == person.project_id, col(Report.project_id).is_(None))
    await connection.execute(delete(Report).where(col(Report.verified).is_(False), key, whose))
    some = select(col(Report.id)).where(col(Report.project_id) == person.project_id, key).limit(REPORTS_AT_ONCE)
    blanked = await connection.execute(
        update(Report).where(col(Report.id).in_(some)).values(email=None, email_key=None, text="", reporter="")
    )
    return Step("more" if blanked.rowcount == REPORTS_AT_ONCE else None)


_PHASES: Mapping[str, Phase] = {
    FIRST_PHASE: _campaigns,
    "senders": _senders,
    "reports": _reports,
    "suppressions": erased_texts.SUPPRESSIONS,
    "events": erased_texts.EVENTS,
    "answers": erased_texts.answers,
}
_NAMES = list(_PHASES)
_AFTER = dict(pairwise(_NAMES))

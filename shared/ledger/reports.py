"""Reports in the ledger: whom they are about, and what follows from them.

Only a token of ours that is genuine, or what a provider has signed, names a recipient. Everything else is kept for a
person, and changes nothing. A recipient stays `sent`, because that was true.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from shared.addresses import Address, AddressError, parse_address
from shared.email_tokens import TOKEN, is_genuine, named_by
from shared.faults.meaning import Consequence
from shared.feedback.meaning import Found, Kind
from shared.ledger import outbox, rows, timeline
from shared.ledger.database import clock, db_now
from shared.ledger.facts import Fact, FactType
from shared.ledger.models import Batch, Campaign, Recipient
from shared.ledger.report_tables import Report
from shared.ledger.states import RecipientStatus
from shared.ledger.suppressions import Entry, Reason, suppress
from shared.signing import TokenError
from shared.unsubscribe import read_token

KEPT_UNVERIFIED = 10_000
"""Unverified reports that are kept: strangers can send any number."""

FULL_CAMPAIGNS = 3
FULL_SECONDS = 30 * 86_400.0
"""A mailbox that was full in so many campaigns, over so long a time, is given up."""

FULL = "the mailbox is full"
"""`why` of such bounces, in shared.faults.table."""

COUNTED = {Kind.BOUNCED: Batch.bounced, Kind.COMPLAINED: Batch.complained, Kind.UNSUBSCRIBED: Batch.unsubscribed}
KEPT = (*COUNTED, Kind.DELAYED, Kind.UNKNOWN)
"""Others are not recorded: nothing follows from them."""

_FACTS = {
    Kind.BOUNCED: FactType.RECIPIENT_BOUNCED,
    Kind.DELAYED: FactType.RECIPIENT_DELAYED,
    Kind.COMPLAINED: FactType.RECIPIENT_COMPLAINED,
    Kind.UNSUBSCRIBED: FactType.RECIPIENT_UNSUBSCRIBED,
}
_ENTRIES = {
    Kind.BOUNCED: "Bounces came in",
    Kind.COMPLAINED: "A recipient called an email spam",
    Kind.UNSUBSCRIBED: "A recipient unsubscribed",
}


@dataclass(frozen=True, slots=True)
class Person:
    """The recipient whom a report is about."""

    recipient_id: int
    campaign_id: UUID
    project_id: UUID
    address: Address
    #: None: no batch covers it, so no email has left.
    batch_id: int | None
    status: str


@dataclass(frozen=True, slots=True)
class Incoming:
    """A report to be recorded."""

    found: Found
    #: The same for the same report, 64 characters.
    digest: str
    #: How it came in: `mail`, `api`, `ses` or `link`.
    via: str
    #: None: it is not verified.
    person: Person | None
    #: The project that gave us an unverified one, if it is known.
    project_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a report."""

    #: `recorded`, `unverified`, `repeated` or `ignored`.
    result: str
    #: None: it is not in the ledger.
    report_id: int | None = None


async def identify(
    connection: AsyncConnection, secrets: Sequence[bytes], tokens: Iterable[str], project_id: UUID | None = None
) -> Person | None:
    """Whom the first genuine token names; None if none is. `project_id`: only recipients of that project."""
    for token in tokens:
        for recipient_id, is_named in _readings(secrets, token):
            person = await _person(connection, recipient_id)
            if person is not None and is_named(person.campaign_id) and project_id in (None, person.project_id):
                return person
    return None


def _readings(secrets: Sequence[bytes], token: str) -> Iterable[tuple[int, Any]]:
    """Recipients that a text may name, each with a test of its campaign."""
    if TOKEN.fullmatch(token):
        for named in named_by(secrets, token):
            yield named.recipient_id, lambda campaign_id, named=named: is_genuine(named, campaign_id)
        return
    try:
        campaign_id, recipient_id = read_token(secrets, token)
    except TokenError:
        return
    if recipient_id < 2**63:
        yield recipient_id, campaign_id.__eq__


async def _person(connection: AsyncConnection, recipient_id: int) -> Person | None:
    found = await connection.execute(
        select(
            col(Recipient.id),
            col(Recipient.campaign_id),
            col(Campaign.project_id),
            col(Recipient.email),
            col(Recipient.email_key),
            col(Recipient.status),
            select(col(Batch.id))
            .where(
                col(Batch.campaign_id) == col(Recipient.campaign_id),
                col(Batch.first_id) <= col(Recipient.id),
                col(Batch.last_id) >= col(Recipient.id),
            )
            .order_by(col(Batch.first_id).desc())
            .limit(1)
            .scalar_subquery(),
        )
        .join(Campaign, col(Campaign.id) == col(Recipient.campaign_id))
        .where(col(Recipient.id) == recipient_id)
    )
    row = found.first()
    if row is None:
        return None
    return Person(row[0], row[1], row[2], Address(row[3], row[4]), row[6], row[5])


NEWEST_CAMPAIGNS = 200
"""Campaigns of a project in which an email is looked for by its queue id."""


async def by_queue_id(connection: AsyncConnection, project_id: UUID, email: str, queue_id: str) -> Person | None:
    """The recipient with this address whose email has this id at its relay: for reports that a provider has signed,
    which replaces our headers. Only the project's newest campaigns are looked through, by the index of addresses."""
    try:
        key = parse_address(email).key
    except AddressError:
        return None
    newest = (
        select(col(Campaign.id))
        .where(col(Campaign.project_id) == project_id)
        .order_by(col(Campaign.id).desc())
        .limit(NEWEST_CAMPAIGNS)
    )
    found = await connection.scalar(
        select(col(Recipient.id))
        .where(
            col(Recipient.campaign_id).in_(newest),
            col(Recipient.email_key) == key,
            col(Recipient.queue_id) == queue_id,
        )
        .limit(1)
    )
    return None if found is None or not queue_id else await _person(connection, found)


async def record(connection: AsyncConnection, incoming: Sequence[Incoming]) -> Sequence[Outcome]:
    """Records reports in the current transaction; returns what came of each, in the same order. Repeats are harmless.

    The batch of each recipient is locked, in the order of ids, to avoid deadlocks."""
    outcomes: dict[int, Outcome] = {}
    noted: set[tuple[UUID, Kind]] = set()
    order = sorted(range(len(incoming)), key=lambda index: _batch_of(incoming[index]))
    for index in order:
        one = incoming[index]
        if one.found.kind not in KEPT:
            outcomes[index] = Outcome("ignored")
            continue
        outcomes[index] = await _record(connection, one)
        if outcomes[index].result == "recorded" and one.person is not None and one.found.kind in _ENTRIES:
            noted.add((one.person.campaign_id, one.found.kind))
    for campaign_id, kind in sorted(noted):
        await timeline.record(connection, campaign_id, kind.value, _ENTRIES[kind])
    return [outcomes[index] for index in range(len(incoming))]


def _batch_of(one: Incoming) -> int:
    return (one.person.batch_id or 0) if one.person is not None else 0


async def _record(connection: AsyncConnection, one: Incoming) -> Outcome:
    person, found = one.person, one.found
    if person is not None and person.batch_id is not None:
        await rows.lock(connection, Batch.bounced, col(Batch.id) == person.batch_id, returning=(col(Batch.id),))
    is_first = person is not None and not await _is_known(connection, person.recipient_id, found.kind)
    report_id = await _insert(connection, one)
    if report_id is None:
        if person is not None and found.kind is Kind.UNSUBSCRIBED:
            # Who was let in again and wants out again says the same.
            await _suppress(connection, person, found, "unsubscribed")
        return Outcome("repeated")
    if person is None:
        return Outcome("unverified", report_id)
    reason = await _reason_to_suppress(connection, person, found)
    if is_first:
        await _count(connection, person, found, is_gone=reason == "bounced")
        await outbox.tell(connection, person.project_id, _facts(person, found, one.via))
    if reason is not None:
        await _suppress(connection, person, found, reason)
    return Outcome("recorded", report_id)


def _facts(person: Person, found: Found, via: str) -> Sequence[Fact]:
    """What the project's programs are told. Of reports that say the same of a recipient, they are told the first."""
    kind = _FACTS.get(found.kind)
    if kind is None:
        return ()
    judgement = found.judgement()
    details = {
        "via": via,
        "code": found.code or None,
        "enhanced_code": found.enhanced,
        "reply": found.text,
        "why": judgement and judgement.why,
        "reporter": found.reporter,
    }
    return [Fact(kind, person.campaign_id, person.recipient_id, details)]


async def _suppress(connection: AsyncConnection, person: Person, found: Found, reason: Reason) -> None:
    entry = Entry(person.address, reason, found.text[:200] or None, person.campaign_id)
    await suppress(connection, person.project_id, [entry])


async def _is_known(connection: AsyncConnection, recipient_id: int, kind: Kind) -> bool:
    known = select(col(Report.id)).where(col(Report.recipient_id) == recipient_id, col(Report.kind) == kind.value)
    return (await connection.execute(known.limit(1))).first() is not None


async def _insert(connection: AsyncConnection, one: Incoming) -> int | None:
    """The new row's id; None if the report is there already."""
    person, found = one.person, one.found
    judgement = found.judgement()
    address = person.address if person is not None else _address(found)
    new = rows.insert_missing(connection, Report).values(
        digest=one.digest,
        at=db_now(),
        project_id=person.project_id if person is not None else one.project_id,
        campaign_id=person.campaign_id if person is not None else None,
        recipient_id=person.recipient_id if person is not None else None,
        kind=found.kind.value,
        verified=person is not None,
        email=address and address.email,
        email_key=address and address.key,
        via=one.via,
        reporter=found.reporter[:200],
        code=found.code or None,
        enhanced_code=found.enhanced,
        why=judgement and judgement.why[:100],
        consequence=judgement and judgement.consequence.value,
        text=found.text[:500],
    )
    return (await connection.execute(new.returning(col(Report.id)))).scalar()


def _address(found: Found) -> Address | None:
    """The first usable address that a report names."""
    for text in found.addresses:
        try:
            return parse_address(text)
        except AddressError:
            continue
    return None


async def _count(connection: AsyncConnection, person: Person, found: Found, *, is_gone: bool) -> None:
    column = COUNTED.get(found.kind)
    if column is None or person.batch_id is None:
        return
    changes = {column: column + 1}
    if is_gone and person.status == RecipientStatus.SENT:  # a failed one was counted when it failed
        changes[Batch.gone] = Batch.gone + 1
    await connection.execute(update(Batch).where(col(Batch.id) == person.batch_id).values(changes))


async def _reason_to_suppress(connection: AsyncConnection, person: Person, found: Found) -> Reason | None:
    """The reason of the suppression that follows; None if none does."""
    if found.kind is Kind.COMPLAINED:
        return "complained"
    if found.kind is Kind.UNSUBSCRIBED:
        return "unsubscribed"
    judgement = found.judgement()
    if found.kind is not Kind.BOUNCED or judgement is None or not _is_about(person.address, found.addresses):
        return None
    if judgement.consequence is Consequence.SUPPRESS:
        return "bounced"
    if judgement.why == FULL and await _is_always_full(connection, person):
        return "bounced"
    return None


def _is_about(address: Address, named: Sequence[str]) -> bool:
    """Whether a report is about the recipient's own mailbox, and not about one that it forwards to."""
    if not named:
        return True
    local = address.key.rpartition("@")[0].partition("+")[0]
    for text in named:
        try:
            key = parse_address(text).key
        except AddressError:
            continue
        # Servers rewrite domains on the way in.
        if key == address.key or key.rpartition("@")[0].partition("+")[0] == local:
            return True
    return False


async def _is_always_full(connection: AsyncConnection, person: Person) -> bool:
    found = await connection.execute(
        select(func.count(col(Report.campaign_id).distinct()), func.min(col(Report.at))).where(
            col(Report.project_id) == person.project_id,
            col(Report.email_key) == person.address.key,
            col(Report.kind) == Kind.BOUNCED.value,
            col(Report.verified).is_(True),
            col(Report.why) == FULL,
        )
    )
    campaigns, first = found.one()
    return campaigns >= FULL_CAMPAIGNS and first <= await clock(connection) - FULL_SECONDS


async def trim_unverified(connection: AsyncConnection) -> int:
    """Deletes unverified reports beyond the newest that are kept; returns how many."""
    newest = (
        select(col(Report.id))
        .where(col(Report.verified).is_(False))
        .order_by(col(Report.id).desc())
        .offset(KEPT_UNVERIFIED)
        .limit(1)
    )
    gone = await connection.execute(
        delete(Report).where(col(Report.verified).is_(False), col(Report.id) <= newest.scalar_subquery())
    )
    return gone.rowcount

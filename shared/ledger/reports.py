"""Reports in the ledger.

Only a token of ours that is genuine, or what a provider has signed, names a recipient (`report_people.py`). Everything
else is kept for a person, and changes nothing. A recipient stays `sent`, because that was true.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from shared.addresses import Address, AddressError, parse_address
from shared.feedback.about import about
from shared.feedback.meaning import Found, Kind
from shared.ledger import batches, late_reports, report_effects, report_people, rows
from shared.ledger.database import db_now
from shared.ledger.forgetting.people import Forgotten
from shared.ledger.report_effects import COUNTED, Effects
from shared.ledger.report_people import NO_ADDRESS, Person
from shared.ledger.report_tables import Report

KEPT_UNVERIFIED = 10_000
"""Unverified reports that are kept: strangers can send any number."""

MOST_OF_A_KIND = 20
"""Reports of one kind that are kept of one recipient, who knows the token and can send any number."""

KEPT = (*COUNTED, Kind.DELAYED, Kind.UNKNOWN)
"""Others are not recorded: nothing follows from them."""


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
    #: The recipient of a forgotten campaign that it is about.
    forgotten: Forgotten | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a report."""

    #: `recorded`, `unverified`, `repeated`, `ignored`, or `forgotten`: the results of its campaign were deleted.
    result: str
    #: What it says of its recipient.
    kind: Kind
    #: None: it is not in the ledger.
    report_id: int | None = None


async def record(connection: AsyncConnection, incoming: Sequence[Incoming]) -> Sequence[Outcome]:
    """Records reports in the current transaction; returns what came of each, in the same order. Repeats are harmless.
    If a report names several recipients, only what it says of ours counts.

    The number of statements does not grow with the number of reports. Rows are locked in one order, to avoid deadlocks:
    batches by id, new reports by digest, suppressions by address."""
    incoming = [_about_person(one) for one in incoming]
    await late_reports.take(
        connection, [(one.forgotten, one.found.kind) for one in incoming if one.forgotten is not None]
    )
    kept = [one for one in incoming if one.found.kind in KEPT and one.forgotten is None]
    if not kept:
        return [_not_kept(one) for one in incoming]
    people = {one.person.recipient_id: one.person for one in kept if one.person is not None}
    await batches.lock_all(connection, {one.batch_id for one in people.values() if one.batch_id is not None})
    erased = await report_people.erased_among(connection, people)
    incoming, kept = [_forgetting(one, erased) for one in incoming], [_forgetting(one, erased) for one in kept]
    known = await _known(connection, people)
    added = await _insert(connection, [one for one in kept if known[_of(one)] < MOST_OF_A_KIND])
    full = {(one.project_id, one.address.key) for one in _full(kept)}
    effects = Effects(await report_effects.always_full(connection, full))
    outcomes: list[Outcome] = []
    for one in incoming:
        if one.found.kind not in KEPT or one.forgotten is not None:
            outcomes.append(_not_kept(one))
            continue
        report_id = added.pop(one.digest, None)
        outcomes.append(_outcome(one, report_id))
        if one.person is None:
            continue
        if report_id is not None:
            effects.add(one.person, one.found, one.via, is_first=not known[_of(one)])
            known[_of(one)] += 1
        elif one.found.kind is Kind.UNSUBSCRIBED:
            # Who was let in again and wants out again says the same.
            effects.suppress(one.person, one.found, "unsubscribed")
    await effects.write(connection)
    return outcomes


def _forgetting(one: Incoming, erased: Collection[int]) -> Incoming:
    """The report without its person, if that was erased meanwhile: only the kind and the codes count."""
    if one.person is None or one.person.recipient_id not in erased:
        return one
    found = replace(one.found, addresses=(), text="", reporter="")
    return replace(one, found=found, person=replace(one.person, address=NO_ADDRESS))


def _not_kept(one: Incoming) -> Outcome:
    return Outcome("ignored" if one.forgotten is None else "forgotten", one.found.kind)


def _about_person(one: Incoming) -> Incoming:
    return one if one.person is None else replace(one, found=about(one.found, one.person.address.key))


def _outcome(one: Incoming, report_id: int | None) -> Outcome:
    if report_id is None:
        return Outcome("repeated", one.found.kind)
    return Outcome("unverified" if one.person is None else "recorded", one.found.kind, report_id)


def _full(incoming: Sequence[Incoming]) -> Sequence[Person]:
    """The people whose mailbox is full, say the reports."""
    return [one.person for one in incoming if one.person is not None and report_effects.is_full(one.found)]


def _of(one: Incoming) -> tuple[int, str]:
    """Recipient and kind."""
    return (one.person.recipient_id if one.person is not None else 0, one.found.kind.value)


async def _known(connection: AsyncConnection, people: Collection[int]) -> Counter[tuple[int, str]]:
    """The reports there are of the recipients, by recipient and kind."""
    known: Counter[tuple[int, str]] = Counter()
    if people:
        found = await connection.execute(
            select(col(Report.recipient_id), col(Report.kind), func.count().label("reports"))
            .where(col(Report.recipient_id).in_(people))
            .group_by(col(Report.recipient_id), col(Report.kind))
        )
        known.update({(row.recipient_id, row.kind): row.reports for row in found})
    return known


async def _insert(connection: AsyncConnection, incoming: Sequence[Incoming]) -> dict[str, int]:
    """The ids of the rows that were added, by digest. A report that is there already gets no row; of two with the same
    digest the first gets one."""
    new = {one.digest: _row(one) for one in reversed(incoming)}
    if not new:
        return {}
    added = await connection.execute(
        rows.insert_missing(connection, Report).values(at=db_now()).returning(col(Report.digest), col(Report.id)),
        [new[digest] for digest in sorted(new)],
    )
    return {row[0]: row[1] for row in added}


def _row(one: Incoming) -> Mapping[str, Any]:
    person, found = one.person, one.found
    judgement = found.judgement()
    address = person.address if person is not None else _address(found)
    if person is not None and person.is_erased:
        address = None
    return {
        "digest": one.digest,
        "project_id": person.project_id if person is not None else one.project_id,
        "campaign_id": person.campaign_id if person is not None else None,
        "recipient_id": person.recipient_id if person is not None else None,
        "kind": found.kind.value,
        "verified": person is not None,
        "email": address and address.email,
        "email_key": address and address.key,
        "via": one.via,
        "reporter": found.reporter[:200],
        "code": found.code or None,
        "enhanced_code": found.enhanced,
        "why": judgement and judgement.why[:100],
        "consequence": judgement and judgement.consequence.value,
        "text": found.text[:500],
    }


def _address(found: Found) -> Address | None:
    """The first usable address that a report names."""
    for text in found.addresses:
        try:
            return parse_address(text)
        except AddressError:
            continue
    return None


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

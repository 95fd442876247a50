"""What follows from reports: counts, suppressions, facts for the project's programs, entries of the timeline.

Collected over a group of reports, and written in a few statements.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from uuid import UUID

from sqlalchemy import bindparam, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from shared.faults.meaning import Consequence
from shared.feedback.about import names
from shared.feedback.meaning import Found, Kind
from shared.ledger import outbox, timeline
from shared.ledger.database import clock
from shared.ledger.facts import Fact, FactType
from shared.ledger.models import Batch
from shared.ledger.report_people import Person
from shared.ledger.report_tables import Report
from shared.ledger.states import RecipientStatus
from shared.ledger.suppressions import Entry, Reason, suppress

FULL_CAMPAIGNS = 3
FULL_SECONDS = 30 * 86_400.0
"""A mailbox that was full in so many campaigns, over so long a time, is given up."""

FULL = "the mailbox is full"
"""`why` of such bounces, in shared.faults.table."""

COUNTED = {Kind.BOUNCED: "bounced", Kind.COMPLAINED: "complained", Kind.UNSUBSCRIBED: "unsubscribed"}
"""The columns of a batch that count recipients."""

_COLUMNS = (*COUNTED.values(), "gone")
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

Mailbox = tuple[UUID, str]
"""Project and key of an address."""


class Effects:
    """Collects what follows from new reports about known people, then writes it once."""

    def __init__(self, always_full: Iterable[Mailbox]) -> None:
        self._always_full = set(always_full)
        self._counts: defaultdict[int, Counter[str]] = defaultdict(Counter)
        self._facts: defaultdict[UUID, list[Fact]] = defaultdict(list)
        self._entries: defaultdict[UUID, dict[str, Entry]] = defaultdict(dict)
        self._noted: set[tuple[UUID, Kind]] = set()

    def add(self, person: Person, found: Found, via: str, *, is_first: bool) -> None:
        """`is_first`: no report of this kind was known of the recipient."""
        reason = self._reason_to_suppress(person, found)
        if is_first:
            self._count(person, found.kind, is_gone=reason == "bounced")
            self._facts[person.project_id] += _facts(person, found, via)
        if reason is not None:
            self.suppress(person, found, reason)
        if found.kind in _ENTRIES:
            self._noted.add((person.campaign_id, found.kind))

    def suppress(self, person: Person, found: Found, reason: Reason) -> None:
        if person.is_erased:
            return  # suppressed by its hash
        entry = Entry(person.address, reason, found.text[:200] or None, person.campaign_id)
        self._entries[person.project_id].setdefault(person.address.key, entry)

    async def write(self, connection: AsyncConnection) -> None:
        """Call it while the batches of the recipients are locked."""
        if self._counts:
            added = {name: getattr(Batch, name) + bindparam(f"more_{name}") for name in _COLUMNS}
            await connection.execute(
                update(Batch).where(col(Batch.id) == bindparam("counted")).values(added),
                [
                    {"counted": batch_id, **{f"more_{name}": counts[name] for name in _COLUMNS}}
                    for batch_id, counts in sorted(self._counts.items())
                ],
            )
        for project_id, facts in sorted(self._facts.items()):
            await outbox.tell(connection, project_id, facts)
        for project_id, entries in sorted(self._entries.items()):
            await suppress(connection, project_id, [entries[key] for key in sorted(entries)])
        for campaign_id, kind in sorted(self._noted):
            await timeline.record(connection, campaign_id, kind.value, _ENTRIES[kind])

    def _count(self, person: Person, kind: Kind, *, is_gone: bool) -> None:
        if kind not in COUNTED or person.batch_id is None:
            return
        self._counts[person.batch_id][COUNTED[kind]] += 1
        if is_gone and person.status == RecipientStatus.SENT:  # a failed one was counted when it failed
            self._counts[person.batch_id]["gone"] += 1

    def _reason_to_suppress(self, person: Person, found: Found) -> Reason | None:
        """The reason of the suppression that follows; None if none does."""
        if found.kind is Kind.COMPLAINED:
            return "complained"
        if found.kind is Kind.UNSUBSCRIBED:
            return "unsubscribed"
        judgement = found.judgement()
        if found.kind is not Kind.BOUNCED or judgement is None or not _is_about(person, found):
            return None
        if judgement.consequence is Consequence.SUPPRESS:
            return "bounced"
        if judgement.why == FULL and (person.project_id, person.address.key) in self._always_full:
            return "bounced"
        return None


def is_full(found: Found) -> bool:
    """Whether a bounce says that the mailbox is full."""
    judgement = found.judgement() if found.kind is Kind.BOUNCED else None
    return judgement is not None and judgement.why == FULL


async def always_full(connection: AsyncConnection, mailboxes: Iterable[Mailbox]) -> Sequence[Mailbox]:
    """Those of the mailboxes that were full in several campaigns, over a long time."""
    asked = set(mailboxes)
    if not asked:
        return ()
    project_id, key = col(Report.project_id), col(Report.email_key)
    found = await connection.execute(
        select(project_id, key)
        .where(
            project_id.in_(sorted({one for one, _ in asked})),
            key.in_(sorted({one for _, one in asked})),
            col(Report.kind) == Kind.BOUNCED.value,
            col(Report.verified).is_(True),
            col(Report.why) == FULL,
        )
        .group_by(project_id, key)
        .having(
            func.count(col(Report.campaign_id).distinct()) >= FULL_CAMPAIGNS,
            func.min(col(Report.at)) <= await clock(connection) - FULL_SECONDS,
        )
    )
    return [(row.project_id, row.email_key) for row in found]


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


def _is_about(person: Person, found: Found) -> bool:
    """Whether a report is about the recipient's own mailbox, and not about one that it forwards to."""
    return not found.addresses or names(found.addresses, person.address.key)

"""Whom a report is about: only a token of ours that is genuine, or what a provider has signed, names a recipient."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar
from uuid import UUID

from sqlalchemy import bindparam, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from shared.addresses import Address, AddressError, parse_address
from shared.email_tokens import TOKEN, is_genuine, named_by
from shared.ledger.forgetting import people as forgotten_people
from shared.ledger.forgetting.people import Forgotten
from shared.ledger.models import Batch, Campaign, Recipient
from shared.signing import TokenError
from shared.unsubscribe import read_token

NEWEST_CAMPAIGNS = 200
"""Campaigns of a project in which an email is looked for by its queue id."""

IDS_AT_ONCE = 1000
"""Recipients that one statement looks for."""

NO_ADDRESS = Address("", "")
"""Of an erased person."""

_LARGEST_ID = 2**63 - 1


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

    @property
    def is_erased(self) -> bool:
        """Only the counts of its campaign are left of the person."""
        return not self.address.email


_P = TypeVar("_P", Person, Forgotten)


@dataclass(frozen=True, slots=True)
class _Reading:
    """A recipient that a text names if the test of its campaign holds."""

    recipient_id: int
    is_named: Callable[[UUID], bool]


async def identify(
    connection: AsyncConnection, secrets: Sequence[bytes], tokens: Iterable[str], project_id: UUID | None = None
) -> Person | None:
    """Whom the first genuine token names; None if none is. `project_id`: only recipients of that project."""
    [person] = await identify_all(connection, secrets, [tokens], project_id)
    return person


async def forgotten(
    connection: AsyncConnection, secrets: Sequence[bytes], tokens: Iterable[str], project_id: UUID | None = None
) -> Forgotten | None:
    """The same for recipients of forgotten campaigns, which `identify` does not find."""
    [one] = await forgotten_all(connection, secrets, [tokens], project_id)
    return one


async def identify_all(
    connection: AsyncConnection,
    secrets: Sequence[bytes],
    reports: Sequence[Iterable[str]],
    project_id: UUID | None = None,
) -> Sequence[Person | None]:
    """The same for the tokens of several reports, in their order."""
    readings, ids = _all_readings(secrets, reports)
    people = await _people(connection, ids)
    return [_first_named(some, people, project_id) for some in readings]


async def forgotten_all(
    connection: AsyncConnection,
    secrets: Sequence[bytes],
    reports: Sequence[Iterable[str]],
    project_id: UUID | None = None,
) -> Sequence[Forgotten | None]:
    """The same for recipients of forgotten campaigns."""
    readings, ids = _all_readings(secrets, reports)
    people = await forgotten_people.find(connection, ids)
    return [_first_named(some, people, project_id) for some in readings]


def _all_readings(
    secrets: Sequence[bytes], reports: Sequence[Iterable[str]]
) -> tuple[Sequence[Sequence[_Reading]], Sequence[int]]:
    """Of each report, and the ids of all."""
    readings = [[reading for token in tokens for reading in _readings(secrets, token)] for tokens in reports]
    return readings, sorted({reading.recipient_id for some in readings for reading in some})


def _first_named(readings: Iterable[_Reading], people: Mapping[int, _P], project_id: UUID | None) -> _P | None:
    for reading in readings:
        person = people.get(reading.recipient_id)
        if person is not None and reading.is_named(person.campaign_id) and project_id in (None, person.project_id):
            return person
    return None


def _readings(secrets: Sequence[bytes], token: str) -> Iterator[_Reading]:
    """The recipients that a text may name: a mail token may have been made with each of the secrets."""
    if TOKEN.fullmatch(token):
        for named in named_by(secrets, token):
            yield _Reading(named.recipient_id, partial(is_genuine, named))
        return
    try:
        campaign_id, recipient_id = read_token(secrets, token)
    except TokenError:
        return
    if recipient_id <= _LARGEST_ID:
        yield _Reading(recipient_id, campaign_id.__eq__)


BATCH_OF_RECIPIENT = (
    select(col(Batch.id))
    .where(
        col(Batch.campaign_id) == col(Recipient.campaign_id),
        col(Batch.first_id) <= col(Recipient.id),
        col(Batch.last_id) >= col(Recipient.id),
    )
    .order_by(col(Batch.first_id).desc())
    .limit(1)
    .scalar_subquery()
)
"""The id of the batch that covers `recipient`; NULL if none does."""

# Made once: to make it takes longer than to run it.
_PEOPLE = (
    select(
        col(Recipient.id),
        col(Recipient.campaign_id),
        col(Campaign.project_id),
        col(Recipient.email),
        col(Recipient.email_key),
        col(Recipient.status),
        BATCH_OF_RECIPIENT,
    )
    .join(Campaign, col(Campaign.id) == col(Recipient.campaign_id))
    .where(col(Recipient.id).in_(bindparam("ids", expanding=True)), col(Campaign.forgotten_at).is_(None))
)


async def _people(connection: AsyncConnection, ids: Sequence[int]) -> Mapping[int, Person]:
    """The recipients with these ids that there are."""
    people: dict[int, Person] = {}
    for start in range(0, len(ids), IDS_AT_ONCE):
        for row in await connection.execute(_PEOPLE, {"ids": ids[start : start + IDS_AT_ONCE]}):
            people[row[0]] = Person(row[0], row[1], row[2], Address(row[3], row[4]), row[6], row[5])
    return people


async def erased_among(connection: AsyncConnection, recipient_ids: Collection[int]) -> Collection[int]:
    """Those of the recipients that are erased by now. Call it while their batches are locked."""
    if not recipient_ids:
        return ()
    found = await connection.scalars(
        select(col(Recipient.id)).where(col(Recipient.id).in_(recipient_ids), col(Recipient.email) == "")
    )
    return found.all()


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
    if found is None or not queue_id:
        return None
    return (await _people(connection, [found])).get(found)

"""Campaigns: their lock, which import, send, retry-failed, repair and close take first, and their changes of status."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    ClauseElement,
    ColumnElement,
    Integer,
    Select,
    Uuid,
    bindparam,
    false,
    func,
    insert,
    literal_column,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.dml import ReturningUpdate
from sqlmodel import col
from uuid6 import uuid7

from shared.ledger import outbox, rows
from shared.ledger.counts import counts
from shared.ledger.database import db_now
from shared.ledger.facts import OF_CAMPAIGN, Fact
from shared.ledger.in_order import IN_ORDER, LARGEST_ID, NEVER_SORT, all_after, recipients_after
from shared.ledger.models import Campaign, Recipient
from shared.ledger.states import FINAL, NEW_CAMPAIGN, CampaignStatus, before

_NOT_CLOSED = (
    CampaignStatus.SCHEDULED,
    CampaignStatus.QUEUED,
    CampaignStatus.SENDING,
    CampaignStatus.PAUSED,
    CampaignStatus.STOPPING,
)


def not_closed() -> ColumnElement[bool]:
    """Scheduled or under way, in the words of the partial index of such campaigns."""
    return col(Campaign.status).in_([literal_column(f"'{status.value}'") for status in _NOT_CLOSED])


def in_status(status: CampaignStatus) -> ColumnElement[bool]:
    """The status, written into the statement, so that both databases recognise a partial index of it."""
    return col(Campaign.status) == literal_column(f"'{status.value}'")


def being_sent() -> ColumnElement[bool]:
    """The campaign is being sent."""
    return not_closed() & (col(Campaign.status) == CampaignStatus.SENDING.value)


def has_uncut() -> ColumnElement[bool]:
    """A recipient of `campaign` lies beyond its cursor: no batch covers it yet.

    It looks whether the next recipient of all campaigns, in the order of the index, is one of this campaign. With an
    upper bound PostgreSQL may read the whole campaign from another index, until it has statistics of a new import."""
    following = (
        select(col(Recipient.campaign_id) == col(Campaign.id))
        .where(all_after(col(Campaign.id), col(Campaign.cursor)))
        .order_by(*IN_ORDER)
        .limit(1)
    )
    return func.coalesce(following.correlate(Campaign).scalar_subquery(), false())


@dataclass(frozen=True, slots=True)
class Locked:
    """A campaign whose row no other transaction can change before this one ends."""

    status: str
    cursor: int
    reopen: str | None
    stop_as: str | None


async def lock(connection: AsyncConnection, campaign_id: UUID, *conditions: ColumnElement[bool]) -> Locked | None:
    """Locks a campaign until the transaction ends. None if it does not exist or does not meet the conditions."""
    row = await rows.lock(
        connection,
        Campaign.cursor,
        col(Campaign.id) == campaign_id,
        *conditions,
        returning=(col(Campaign.status), col(Campaign.cursor), col(Campaign.reopen), col(Campaign.stop_as)),
    )
    return None if row is None else Locked(*row)


_ONE_OF = col(Campaign.id).in_(bindparam("ids", expanding=True))


class LockOfMany:
    """Locks those of many campaigns that meet the conditions until the transaction ends, in the order of their ids, to
    avoid deadlocks. On SQLite a writing transaction has locked everything already. A constant, as MoveOfMany."""

    def __init__(self, *conditions: ColumnElement[bool]) -> None:
        self._statement = (
            select(col(Campaign.id), col(Campaign.started_at))
            .where(_ONE_OF, *conditions)
            .order_by(col(Campaign.id))
            .with_for_update()
        )

    async def of(self, connection: AsyncConnection, campaign_ids: Collection[UUID]) -> dict[UUID, float | None]:
        """Returns when each was started."""
        locked = await connection.execute(self._statement, {"ids": list(campaign_ids)})
        return {row.id: row.started_at for row in locked}


_SUBSCRIBER: ColumnElement[UUID | None] = literal_column(
    "(SELECT s.project_id FROM event_stream AS s WHERE s.project_id = campaign.project_id AND s.wanted)", Uuid
).label("subscriber")
"""The project of `campaign`, if it wants its facts in the outbox. As text: in RETURNING, SQLAlchemy names columns for
SQLite without their tables."""


async def move(
    connection: AsyncConnection,
    campaign_id: UUID,
    to: CampaignStatus,
    *conditions: ColumnElement[bool],
    from_: Collection[CampaignStatus] | None = None,
    **values: Any,
) -> bool:
    """Moves a campaign to the status `to`, and sets the columns `values`, in one update; returns whether it moved.

    Only from the statuses that CAMPAIGN_TRANSITIONS allows; `from_` narrows them, `conditions` are further ones. The
    move goes into the outbox, if the project wants that."""
    sources = [source.value for source in before(to) if from_ is None or source in from_]
    if not sources:
        raise ValueError(f"no campaign moves to {to} from {from_}")
    computed = {name: value for name, value in values.items() if isinstance(value, ClauseElement)}
    plain = {name: value for name, value in values.items() if name not in computed}
    statement = _moving(to, tuple(sources), tuple(plain))
    if conditions:
        statement = statement.where(*conditions)
    if computed:
        statement = statement.values(computed)
    new = {f"new_{name}": value for name, value in plain.items()}
    row = (await connection.execute(statement, {"campaign_id": campaign_id, **new})).first()
    if row is not None and row.subscriber is not None:
        await _tell(connection, campaign_id, row.subscriber, to)
    return row is not None


@cache
def _moving(to: CampaignStatus, sources: tuple[str, ...], columns: tuple[str, ...]) -> ReturningUpdate[UUID | None]:
    """The update that sets the status and these columns, each to `new_...`. It is kept, because to build it takes as
    long as to execute it."""
    return (
        update(Campaign)
        .where(col(Campaign.id) == bindparam("campaign_id"), col(Campaign.status).in_(sources))
        .values(status=to.value, **{name: bindparam(f"new_{name}") for name in columns})
        .returning(_SUBSCRIBER)
    )


async def _tell(connection: AsyncConnection, campaign_id: UUID, project_id: UUID, to: CampaignStatus) -> None:
    """Writes a move into the outbox of the project, with its reason, and at the end with the counts."""
    found = await connection.execute(
        select(col(Campaign.name), col(Campaign.reason), col(Campaign.test_of)).where(col(Campaign.id) == campaign_id)
    )
    row = found.one()
    details: dict[str, Any] = {"name": row.name, "reason": row.reason, "test_of": row.test_of and str(row.test_of)}
    if to in FINAL:
        details["counts"] = await counts(connection, campaign_id)
    await outbox.write(connection, outbox.pack(project_id, [Fact(OF_CAMPAIGN[to], campaign_id, details=details)]))


class MoveOfMany:
    """Moves many campaigns to the status `to` in one update, and sets the columns `values`. A constant of its module,
    because to build the statement takes as long as to execute it."""

    def __init__(self, to: CampaignStatus, **values: Any) -> None:
        self._to = to
        self._statement: ReturningUpdate[UUID, UUID | None] = (
            update(Campaign)
            .where(_ONE_OF, col(Campaign.status).in_([source.value for source in before(to)]))
            .values(status=to.value, **values)
            .returning(col(Campaign.id), _SUBSCRIBER)
        )

    async def of(self, connection: AsyncConnection, campaign_ids: Collection[UUID]) -> set[UUID]:
        """Moves those of the campaigns that may go to this status; returns them. Lock them first. The moves go into the
        outbox, as those of `move` do."""
        moved = await connection.execute(self._statement, {"ids": list(campaign_ids)})
        found = {row.id: row.subscriber for row in moved}
        for campaign_id, project_id in sorted(found.items()):
            if project_id is not None:
                await _tell(connection, campaign_id, project_id, self._to)
        return set(found)


async def create(connection: AsyncConnection, status: CampaignStatus = CampaignStatus.DRAFT, **values: Any) -> UUID:
    """Adds a campaign with these columns and returns its id."""
    if status not in NEW_CAMPAIGN:
        raise ValueError(f"no campaign starts as {status}")
    campaign_id = UUID(int=uuid7().int)
    # Not among the values: SQLAlchemy keeps those of the first campaign with the statement, megabytes included.
    content = {"content": values.pop("content")}
    await connection.execute(
        insert(Campaign).values(id=campaign_id, status=status.value, created_at=db_now(), **values), content
    )
    if status != CampaignStatus.DRAFT and (project_id := await outbox.subscriber(connection, campaign_id)) is not None:
        await _tell(connection, campaign_id, project_id, status)
    return campaign_id


@dataclass(frozen=True, slots=True)
class Range:
    """Recipients of a campaign that follow each other by id."""

    first_id: int
    last_id: int
    size: int


def next_ids() -> Select[int]:
    """The ids of the first `most` recipients of `campaign_id` with ids above `after`, up to `until`, in order. Execute
    it after NEVER_SORT."""
    after, until = bindparam("after", type_=BigInteger), bindparam("until", type_=BigInteger)
    return (
        select(col(Recipient.id).label("id"))
        .where(recipients_after(bindparam("campaign_id", type_=Uuid), after, until))
        .order_by(*IN_ORDER)
        .limit(bindparam("most", type_=Integer))
    )


_IDS = next_ids().subquery()
_NEXT_RANGE = select(func.min(_IDS.c.id), func.max(_IDS.c.id), func.count()).select_from(_IDS)


async def next_range(
    connection: AsyncConnection, campaign_id: UUID, after: int, limit: int, *, below: int | None = None
) -> Range | None:
    """The first `limit` recipients with an id above `after` (and below `below`); None if there are none.

    Call it in a writing transaction."""
    if connection.dialect.name == "postgresql":
        await connection.execute(NEVER_SORT)
    until = LARGEST_ID if below is None else below - 1
    values = {"campaign_id": campaign_id, "after": after, "until": until, "most": limit}
    first_id, last_id, size = (await connection.execute(_NEXT_RANGE, values)).one()
    return Range(first_id, last_id, size) if size else None


async def move_cursor(
    connection: AsyncConnection, campaign_id: UUID, cursor: int, *conditions: ColumnElement[bool]
) -> bool:
    """Sets the cursor, in the transaction that creates the batch that ends there; False if a condition is not met."""
    moved = await connection.execute(
        update(Campaign).where(col(Campaign.id) == campaign_id, *conditions).values(cursor=cursor)
    )
    return moved.rowcount > 0

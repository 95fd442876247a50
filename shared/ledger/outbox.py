"""The outbox: facts for the programs of projects that want them, written in the transaction that makes them true.

A transaction adds one row for each project. Positions are given afterwards (`place`), to rows that are committed: so a
reader that has read up to a position has missed nothing before it. Per recipient, positions have the order of the
facts: ids are given while the recipient's batch is locked.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import TextClause, Uuid, bindparam, delete, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from shared.ledger import rows
from shared.ledger.database import POSTGRESQL_NOW, SQLITE_NOW, Ledger, db_now
from shared.ledger.facts import OF_RECIPIENT, Fact
from shared.ledger.models import Campaign, Project
from shared.ledger.outbox_tables import EventStream, Outbox

MOST_FACTS = 500
"""Facts in one row."""

DAY_SECONDS = 86_400.0

ROWS_PLACED = 500
"""Rows of one project that are placed in one transaction."""


Columns = Mapping[str, list[Any]]
"""Facts: for each name a list with the value of each fact, or None if a fact has none."""


@dataclass(frozen=True, slots=True)
class Packed:
    """Facts of one project as a row keeps them."""

    project_id: UUID
    size: int
    facts: str


async def wants(connection: AsyncConnection, project_id: UUID) -> bool:
    """Whether a project wants its facts written."""
    found = await connection.scalar(
        select(col(EventStream.project_id)).where(
            col(EventStream.project_id) == project_id, col(EventStream.wanted).is_(True)
        )
    )
    return found is not None


async def subscriber(connection: AsyncConnection, campaign_id: UUID) -> UUID | None:
    """The project of a campaign, if it wants its facts written."""
    return await connection.scalar(
        select(col(EventStream.project_id))
        .join(Campaign, col(Campaign.project_id) == col(EventStream.project_id))
        .where(col(Campaign.id) == campaign_id, col(EventStream.wanted).is_(True))
    )


async def tell(connection: AsyncConnection, project_id: UUID, facts: Sequence[Fact]) -> None:
    """Writes facts in the current transaction, if the project wants them."""
    if facts and await wants(connection, project_id):
        await write(connection, pack(project_id, facts))


async def write(connection: AsyncConnection, packed: Sequence[Packed]) -> None:
    """Writes rows in the current transaction. Call it while the batches of the recipients are locked."""
    if packed:
        await connection.execute(
            _INSERT[connection.dialect.name],
            [{"project_id": one.project_id, "size": one.size, "facts": one.facts} for one in packed],
        )


def _insert(now: str) -> TextClause:
    # It returns no id: senders and dispatchers may not read the outbox.
    statement = f"INSERT INTO outbox (project_id, at, size, facts) VALUES (:project_id, {now}, :size, :facts)"
    return text(statement).bindparams(bindparam("project_id", type_=Uuid))


_INSERT = {"sqlite": _insert(SQLITE_NOW), "postgresql": _insert(POSTGRESQL_NOW)}


def columns_of_results(campaign_id: UUID, results: Collection[Any]) -> Columns:
    """The facts in the results of a sender (see `recipients.Change`): those that close a recipient."""
    closed = [result for result in results if result.status in OF_RECIPIENT]
    return {
        "type": [OF_RECIPIENT[result.status] for result in closed],
        "campaign_id": [campaign_id] * len(closed),
        "recipient_id": [result.recipient_id for result in closed],
        "attempts": [result.attempts for result in closed],
        "code": [result.code for result in closed],
        "enhanced_code": [result.enhanced for result in closed],
        "reply": [result.reply for result in closed],
        "relay": [result.relay for result in closed],
        "queue_id": [result.queue_id for result in closed],
    }


def pack(project_id: UUID, facts: Sequence[Fact]) -> Sequence[Packed]:
    """The rows for some facts."""
    names = dict.fromkeys(name for fact in facts for name in fact.details)
    return pack_columns(
        project_id,
        {
            "type": [fact.type for fact in facts],
            "campaign_id": [fact.campaign_id for fact in facts],
            "recipient_id": [fact.recipient_id for fact in facts],
            **{name: [fact.details.get(name) for fact in facts] for name in names},
        },
    )


def join(parts: Sequence[Columns]) -> Columns:
    """Columns of the same names, one after the other."""
    return {name: list(chain.from_iterable(part[name] for part in parts)) for name in parts[0]}


def pack_columns(project_id: UUID, columns: Columns) -> Sequence[Packed]:
    """The same for facts by column: a sender makes no object for each of them."""
    packed = []
    for start in range(0, len(columns["type"]), MOST_FACTS):
        part = {name: column[start : start + MOST_FACTS] for name, column in columns.items()}
        packed.append(Packed(project_id, len(part["type"]), _text(part)))
    return packed


def unpack(kept: str, size: int) -> Iterator[dict[str, Any]]:
    """The facts of a row, in their order: `type`, and those of `campaign_id`, `recipient_id` and details it has."""
    row = orjson.loads(kept)
    common, names = row["all"], list(row["each"])
    for values in zip(*row["each"].values(), strict=True) if names else [()] * size:
        yield {**common, **{name: value for name, value in zip(names, values, strict=True) if value is not None}}


def _text(columns: Columns) -> str:
    """What all facts of the row have in common is kept once: each byte is written with a group commit, and on SQLite
    again with the position."""
    size = len(columns["type"])
    common = {name: column[0] for name, column in columns.items() if column.count(column[0]) == size}
    row = {
        "all": {name: value for name, value in common.items() if value is not None},
        "each": {name: column for name, column in columns.items() if name not in common},
    }
    return orjson.dumps(row, default=str).decode()  # each driver returns UUIDs of another class


INSERT_AFTER_LOCKS = f"""
    told AS (
        INSERT INTO outbox (project_id, at, size, facts)
        SELECT o.project_id, {POSTGRESQL_NOW}, o.size, o.facts
        FROM json_to_recordset(CAST({{outbox}} AS json)) AS o(project_id uuid, size int, facts text)
        WHERE (SELECT count(*) FROM locked) = CAST({{batch_count}} AS bigint)
    )
"""
"""For `recipients.record_with_locks`, with the places of its two parameters: ids are given after the batches are
locked."""


def as_json(packed: Sequence[Packed]) -> str:
    """What INSERT_AFTER_LOCKS inserts."""
    return orjson.dumps([{"project_id": str(o.project_id), "size": o.size, "facts": o.facts} for o in packed]).decode()


async def place(ledger: Ledger) -> int:
    """Gives positions to committed rows that have none; returns how many facts they hold.

    Several processes may do it at the same time: the lock of a project's stream puts them in order."""
    placed = 0
    for project_id in await ledger.read_at_once(_with_unplaced):
        is_more = True
        while is_more:
            sizes = await ledger.write_at_once(partial(_place, project_id=project_id))
            placed += sum(sizes)
            is_more = len(sizes) == ROWS_PLACED
    return placed


async def _with_unplaced(connection: AsyncConnection) -> Sequence[UUID]:
    """Projects with rows that have no position."""
    found = await connection.execute(select(col(Outbox.project_id)).where(col(Outbox.position).is_(None)).distinct())
    return sorted(found.scalars())


async def _place(connection: AsyncConnection, project_id: UUID) -> Sequence[int]:
    """Returns the sizes of the rows. Two statements: the second sees what was committed until the stream was locked."""
    stream = await rows.lock(
        connection,
        EventStream.last_position,
        col(EventStream.project_id) == project_id,
        returning=(col(EventStream.last_position),),
    )
    if stream is None:
        return ()
    last = stream.last_position
    unplaced = (
        select(col(Outbox.id), col(Outbox.size))
        .where(col(Outbox.project_id) == project_id, col(Outbox.position).is_(None))
        .order_by(col(Outbox.id))
        .limit(ROWS_PLACED)
    ).subquery()
    ahead = func.sum(unplaced.c.size).over(order_by=unplaced.c.id) - unplaced.c.size
    positions = select(unplaced.c.id, (ahead + last + 1).label("position")).subquery()
    given = await connection.execute(
        update(Outbox)
        .where(col(Outbox.id) == positions.c.id)
        .values(position=positions.c.position)
        .returning(col(Outbox.size))
    )
    sizes = given.scalars().all()
    await connection.execute(
        update(EventStream).where(col(EventStream.project_id) == project_id).values(last_position=last + sum(sizes))
    )
    return sizes


async def forget(ledger: Ledger, kept_seconds: float, most: int, *, default_days: int = 0) -> int:
    """Deletes placed rows that are older than `kept_seconds`, or than the retention of their project; at most `most` of
    each project. Returns how many. `default_days`: the retention of projects that set none; 0: for ever."""
    deleted = 0
    for project_id, days in await ledger.read_at_once(_retentions):
        seconds = _kept(kept_seconds, days, default_days)
        deleted += await ledger.write_at_once(
            partial(_forget, project_id=project_id, older_than_seconds=seconds, most=most)
        )
    return deleted


async def _retentions(connection: AsyncConnection) -> Sequence[tuple[UUID, int | None]]:
    """Projects that have had events, and how many days they keep what is theirs."""
    projects = await connection.execute(
        select(col(EventStream.project_id), col(Project.retention_days))
        .join(Project, col(Project.id) == col(EventStream.project_id))
        .order_by(col(EventStream.project_id))
    )
    return [(row.project_id, row.retention_days) for row in projects]


async def _forget(connection: AsyncConnection, project_id: UUID, older_than_seconds: float, most: int) -> int:
    oldest = (
        select(col(Outbox.id), col(Outbox.position), col(Outbox.size), col(Outbox.at))
        .where(col(Outbox.project_id) == project_id, col(Outbox.position).is_not(None))
        .order_by(col(Outbox.position))
        .limit(most)
    ).subquery()
    found = (await connection.execute(select(oldest).where(oldest.c.at < db_now() - older_than_seconds))).all()
    if found:
        await connection.execute(delete(Outbox).where(col(Outbox.id).in_([row.id for row in found])))
        until = max(row.position + row.size - 1 for row in found)
        await connection.execute(
            update(EventStream)
            .where(col(EventStream.project_id) == project_id, col(EventStream.forgotten_position) < until)
            .values(forgotten_position=until)
        )
    return len(found)


def _kept(kept_seconds: float, days: int | None, default_days: int) -> float:
    days = default_days if days is None else days
    return min(kept_seconds, days * DAY_SECONDS) if days else kept_seconds

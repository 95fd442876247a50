"""The events of a project, read from the outbox in the order of their positions."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import ARRAY, BigInteger, ColumnElement, any_, func, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from shared.errors import DataError
from shared.ledger import outbox, rows
from shared.ledger.facts import FactType
from shared.ledger.models import Recipient
from shared.ledger.outbox_tables import EventStream, Outbox

WINDOW = 10_000
"""Events looked at in one reading for those of some types: a few megabytes."""

VERSION = 1
"""Of the events. A change that breaks readers raises it."""


@dataclass(frozen=True, slots=True)
class Events:
    """Some events, as programs get them, and where to go on."""

    data: Sequence[dict[str, Any]]
    #: All events up to this position were looked at.
    until: int


@dataclass(frozen=True, slots=True)
class Stream:
    """How far the events of a project go."""

    enabled: bool
    wanted: bool
    last_position: int
    forgotten_position: int


NO_STREAM = Stream(enabled=False, wanted=False, last_position=0, forgotten_position=0)


def parse_types(names: str) -> frozenset[str]:
    """The types in a list with commas; a `*` at the end stands for anything. Raises DataError."""
    chosen = set[str]()
    for name in filter(None, (part.strip() for part in names.split(","))):
        known = {kind.value for kind in FactType if kind == name or (name[-1] == "*" and kind.startswith(name[:-1]))}
        if not known:
            raise DataError(f"{name!r} is no type of event: the types are {', '.join(FactType)}")
        chosen |= known
    return frozenset(chosen)


async def stream_of(connection: AsyncConnection, project_id: UUID) -> Stream:
    found = await connection.execute(
        select(
            col(EventStream.enabled),
            col(EventStream.wanted),
            col(EventStream.last_position),
            col(EventStream.forgotten_position),
        ).where(col(EventStream.project_id) == project_id)
    )
    row = found.first()
    return NO_STREAM if row is None else Stream(*row)


async def ensure_stream(connection: AsyncConnection, project_id: UUID) -> None:
    """Adds the row of a project's stream, if it has none."""
    await connection.execute(rows.insert_missing(connection, EventStream).values(project_id=project_id))


async def read(
    connection: AsyncConnection, project_id: UUID, after: int, limit: int, types: Collection[str] = ()
) -> Events:
    """Events with positions above `after`: at most `limit`, of these types only (empty: of all).

    Looks at a bounded number of events, so it may return none although later ones match: go on at `until`."""
    found = await connection.execute(
        select(col(Outbox.position), col(Outbox.size), col(Outbox.at), col(Outbox.facts))
        .where(
            col(Outbox.project_id) == project_id,
            # The row that holds `after` may hold later ones, too.
            col(Outbox.position) > after - outbox.MOST_FACTS,
            col(Outbox.position) <= after + (WINDOW if types else limit),
        )
        .order_by(col(Outbox.position))
    )
    chosen: list[dict[str, Any]] = []
    until = after
    project = str(project_id)
    for row in found:
        if row.position + row.size <= after + 1:
            continue
        if len(chosen) == limit:
            break
        at = datetime.fromtimestamp(row.at, UTC).isoformat().replace("+00:00", "Z")
        for position, fact in enumerate(outbox.unpack(row.facts, row.size), row.position):
            if position <= after:
                continue
            if len(chosen) == limit:
                break
            until = position
            if not types or fact["type"] in types:
                chosen.append(_event(project, position, at, fact))
    await _add_addresses(connection, chosen)
    return Events(chosen, until)


def _event(project: str, position: int, at: str, fact: dict[str, Any]) -> dict[str, Any]:
    kind = fact.pop("type")
    return {
        "id": f"{project}-{position}",
        "version": VERSION,
        "type": kind,
        "at": at,
        "position": position,
        "project_id": project,
        "data": fact,
    }


async def _add_addresses(connection: AsyncConnection, events: Sequence[dict[str, Any]]) -> None:
    """The outbox keeps no addresses: a recipient that was erased since has none."""
    ids = {event["data"]["recipient_id"] for event in events if "recipient_id" in event["data"]}
    if not ids:
        return
    # One parameter: a list of them would be another statement for every number of ids.
    is_one: ColumnElement[bool]
    if connection.dialect.name == "postgresql":
        is_one = col(Recipient.id) == any_(literal(list(ids), ARRAY(BigInteger)))
    else:
        one = func.json_each(orjson.dumps(list(ids)).decode()).table_valued("value")
        is_one = col(Recipient.id).in_(select(one.c.value))
    found = await connection.execute(select(col(Recipient.id), col(Recipient.email)).where(is_one))
    emails = {row.id: row.email for row in found}
    for event in events:
        email = emails.get(event["data"].get("recipient_id", 0))
        if email:
            event["data"]["email"] = email
        elif email == "":  # erased: what a relay said may name the person
            for name in ("reply", "queue_id", "reporter"):
                event["data"].pop(name, None)

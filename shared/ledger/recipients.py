"""Every change of recipients' status: many rows at a time, along the transitions of `shared.ledger.states` only.

Those that close go into the outbox in the same transaction, if their project wants that.

The caller holds the lock of their batch. Results of a sender go to the database as JSON, in plain SQL. Each names the
status and attempts it was read with, and changes only a recipient that still has them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol
from uuid import UUID

import asyncpg
import orjson
from sqlalchemy import ColumnElement, Row, String, TextClause, case, cast, func, literal, text, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from shared.ledger import outbox
from shared.ledger.counts import STATUSES
from shared.ledger.database import POSTGRESQL_NOW, SQLITE_NOW, Ledger, db_now
from shared.ledger.facts import OF_RECIPIENT, Fact
from shared.ledger.models import Recipient
from shared.ledger.outbox import Packed
from shared.ledger.states import OPEN, RECIPIENT_TRANSITIONS, RecipientStatus

_ALLOWED = {(source.value, target.value) for source, targets in RECIPIENT_TRANSITIONS.items() for target in targets}


class UnexpectedError(Exception):
    """A batch or a recipient was not as expected; nothing was recorded."""


class Change(Protocol):
    """What is recorded of one recipient."""

    @property
    def recipient_id(self) -> int: ...
    @property
    def was(self) -> str: ...  # the status it is expected to have
    @property
    def attempts_was(self) -> int: ...  # the attempts it is expected to have
    @property
    def status(self) -> str: ...
    @property
    def attempts(self) -> int: ...
    @property
    def delay_seconds(self) -> float | None: ...  # until the next attempt; None if there is none
    @property
    def code(self) -> int | None: ...
    @property
    def enhanced(self) -> str | None: ...
    @property
    def reply(self) -> str | None: ...
    @property
    def relay(self) -> str | None: ...
    @property
    def queue_id(self) -> str | None: ...


async def record(connection: AsyncConnection, changes: Sequence[Change], told: Sequence[Packed]) -> int:
    """Records changes of recipients whose batches are locked, and `told` in the outbox; returns how many were as
    expected."""
    statement = _RECORD_POSTGRESQL if connection.dialect.name == "postgresql" else _RECORD_SQLITE
    await outbox.write(connection, told)
    return (await connection.execute(statement, {"rows": _json(changes)})).rowcount


async def record_with_locks(
    ledger: Ledger,
    batches: Sequence[Mapping[str, int]],
    changes: Sequence[Change],
    told: Sequence[Packed],
    lease_seconds: float,
) -> None:
    """Locks batches, adds to their counts, renews their leases, records changes of their recipients, and `told` in the
    outbox: one statement, PostgreSQL only. Each batch is its `id`, `generation`, and what to add to the count of each
    status.

    Raises UnexpectedError where anything was not as expected."""
    values = (orjson.dumps(batches).decode(), len(batches), lease_seconds, _json(changes), len(changes))
    try:
        if told:
            await ledger.execute_alone(_RECORD_AND_TELL, *values, outbox.as_json(told))
        else:
            await ledger.execute_alone(_RECORD_WITH_LOCKS, *values)
    except asyncpg.DivisionByZeroError:
        raise UnexpectedError from None


async def close_open(
    connection: AsyncConnection, campaign_id: UUID, first_id: int, last_id: int, to: RecipientStatus
) -> int:
    """Closes the open recipients in a range of ids as `to` (cancelled or expired); returns how many.

    One whose body may have left under at_most_once becomes unknown: it may have been delivered."""
    if to in OPEN:
        raise ValueError(f"a recipient does not close as {to}")
    unknown = RecipientStatus.UNKNOWN
    for status in OPEN:
        check(status, to)
    return await _move(
        connection,
        campaign_id,
        first_id,
        last_id,
        col(Recipient.status).in_([status.value for status in OPEN]),
        status=case((col(Recipient.intent_at).is_not(None), unknown.value), else_=to.value),
        next_attempt_at=None,
    )


async def reopen(
    connection: AsyncConnection,
    campaign_id: UUID,
    first_id: int,
    last_id: int,
    source: RecipientStatus,
    target: RecipientStatus,
) -> int:
    """Moves closed recipients in a range of ids because a person asked; returns how many.

    To `pending` with all their attempts, or to `sent` with the present moment where they have none."""
    check(source, target)
    values: dict[str, Any] = {"next_attempt_at": None, "intent_at": None}
    if target == RecipientStatus.SENT:
        values["sent_at"] = func.coalesce(col(Recipient.sent_at), db_now())
    else:
        values["attempts"] = 0
    is_source = col(Recipient.status) == source.value
    return await _move(connection, campaign_id, first_id, last_id, is_source, status=target.value, **values)


async def cancel_some(connection: AsyncConnection, recipient_ids: Sequence[int]) -> Sequence[Row[int, UUID, str]]:
    """Cancels those of the recipients that are open, because they are erased; returns `id`, `campaign_id`, and the
    `status` that each has now. As with close_open, one whose body may have left becomes unknown."""
    closed = await connection.execute(
        update(Recipient)
        .where(col(Recipient.id).in_(recipient_ids), col(Recipient.status).in_([status.value for status in OPEN]))
        .values(
            status=case(
                (col(Recipient.intent_at).is_not(None), RecipientStatus.UNKNOWN.value),
                else_=RecipientStatus.CANCELLED.value,
            ),
            next_attempt_at=None,
        )
        .returning(col(Recipient.id), col(Recipient.campaign_id), col(Recipient.status))
    )
    return sorted(closed.all(), key=lambda row: row.id)


async def blank(connection: AsyncConnection, recipient_ids: Sequence[int]) -> None:
    """Erases who these recipients are. The results of their emails stay."""
    await connection.execute(
        update(Recipient)
        .where(col(Recipient.id).in_(recipient_ids))
        .values(
            email="",
            # No address has this form; what follows the @ is their domain where domains are counted.
            email_key=literal("erased:") + cast(col(Recipient.id), String) + literal("@"),
            data=None,
            reply=None,
            queue_id=None,
        )
    )


def check(source: str, target: str) -> None:
    """Raises ValueError unless a recipient may move from `source` to `target`."""
    if (source, target) not in _ALLOWED:
        raise ValueError(f"a recipient does not move from {source} to {target}")


async def _move(
    connection: AsyncConnection,
    campaign_id: UUID,
    first_id: int,
    last_id: int,
    condition: ColumnElement[bool],
    **values: Any,
) -> int:
    change = (
        update(Recipient)
        .where(col(Recipient.campaign_id) == campaign_id, col(Recipient.id).between(first_id, last_id), condition)
        .values(**values)
    )
    project_id = await outbox.subscriber(connection, campaign_id)
    if project_id is None:
        return (await connection.execute(change)).rowcount
    moved = (await connection.execute(change.returning(col(Recipient.id), col(Recipient.status)))).all()
    closed = [row for row in sorted(moved) if row.status in OF_RECIPIENT]
    facts = [Fact(OF_RECIPIENT[row.status], campaign_id, row.id) for row in closed]
    await outbox.write(connection, outbox.pack(project_id, facts))
    return len(moved)


_USUAL = (RecipientStatus.PENDING.value, 0, RecipientStatus.SENT.value, 1)
"""`was`, `attempts_was`, `status` and `attempts` of nearly every change, which need not be unpacked for each row."""


def _json(changes: Sequence[Change]) -> str:
    rows: list[dict[str, Any]] = []
    for change in changes:
        row: dict[str, Any] = {
            "id": change.recipient_id,
            "code": change.code,
            "enhanced": change.enhanced,
            "reply": change.reply,
            "relay": change.relay,
            "queue_id": change.queue_id,
        }
        if (change.was, change.attempts_was, change.status, change.attempts) != _USUAL:
            check(change.was, change.status)
            row |= {
                "was": change.was,
                "attempts_was": change.attempts_was,
                "status": change.status,
                "attempts": change.attempts,
            }
        if change.delay_seconds is not None:
            row["delay"] = change.delay_seconds
        rows.append(row)
    return orjson.dumps(rows).decode()


_WAS, _ATTEMPTS_WAS, _STATUS, _ATTEMPTS = (
    f"coalesce(r.{name}, {value!r})"
    for name, value in zip(("was", "attempts_was", "status", "attempts"), _USUAL, strict=True)
)
_SET = f"""
    UPDATE recipient SET status = {_STATUS}, attempts = {_ATTEMPTS}, smtp_code = r.code, enhanced_code = r.enhanced,
        reply = r.reply, relay = r.relay, queue_id = r.queue_id, intent_at = NULL,
        sent_at = CASE WHEN {_STATUS} = 'sent' THEN {{now}} END,
        next_attempt_at = {{now}} + r.delay
"""
_GUARD = f"WHERE recipient.id = r.id AND recipient.status = {_WAS} AND recipient.attempts = {_ATTEMPTS_WAS}"
_POSTGRESQL_ROWS = """
    FROM json_to_recordset(CAST({rows} AS json)) AS r(id bigint, was text, attempts_was int, status text, attempts int,
        delay double precision, code int, enhanced text, reply text, relay text, queue_id text)
"""
_SQLITE_ROWS = """
    FROM (SELECT value ->> '$.id' AS id, value ->> '$.was' AS was, value ->> '$.attempts_was' AS attempts_was,
        value ->> '$.status' AS status, value ->> '$.attempts' AS attempts, value ->> '$.delay' AS delay,
        value ->> '$.code' AS code, value ->> '$.enhanced' AS enhanced, value ->> '$.reply' AS reply,
        value ->> '$.relay' AS relay, value ->> '$.queue_id' AS queue_id FROM json_each(:rows)) AS r
"""
_RECORD_POSTGRESQL: TextClause = text(_SET.format(now=POSTGRESQL_NOW) + _POSTGRESQL_ROWS.format(rows=":rows") + _GUARD)
_RECORD_SQLITE: TextClause = text(_SET.format(now=SQLITE_NOW) + _SQLITE_ROWS + _GUARD)

_COUNTS = ", ".join(f"{status} = batch.{status} + coalesce(b.{status}, 0)" for status in STATUSES)
_COUNT_COLUMNS = ", ".join(f"{status} int" for status in STATUSES)
# $1: the batches as JSON, $2: their number, $3: the seconds of a lease, $4: the changes as JSON, $5: their number.
_WITH_LOCKS = f"""
    WITH locked AS (
        UPDATE batch SET lease_until = {POSTGRESQL_NOW} + CAST($3 AS double precision), {_COUNTS}
        FROM json_to_recordset(CAST($1 AS json)) AS b(id bigint, generation int, {_COUNT_COLUMNS})
        WHERE batch.id = b.id AND batch.generation = b.generation
        RETURNING batch.id
    ), written AS (
        {_SET.format(now=POSTGRESQL_NOW)} {_POSTGRESQL_ROWS.format(rows="$4")} {_GUARD}
            AND (SELECT count(*) FROM locked) = CAST($2 AS bigint)
        RETURNING recipient.id
    )
"""
_UNLESS_UNEXPECTED = """
    SELECT 1 / CAST((SELECT count(*) FROM locked) = CAST($2 AS bigint)
        AND (SELECT count(*) FROM written) = CAST($5 AS bigint) AS int)
"""
_RECORD_WITH_LOCKS = _WITH_LOCKS + _UNLESS_UNEXPECTED
_RECORD_AND_TELL = (
    f"{_WITH_LOCKS}, {outbox.INSERT_AFTER_LOCKS.format(outbox='$6', batch_count='$2')} {_UNLESS_UNEXPECTED}"
)
# The rows wait for the locks, because they are written only if the number of locks is right.

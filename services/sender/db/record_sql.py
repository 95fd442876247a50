"""The statements of `services.sender.db.record` that need plain SQL: rows come in as one JSON text."""

from collections.abc import Sequence

import orjson
from sqlalchemy import TextClause, text

from services.sender.results import Result
from shared.ledger.counts import STATUSES

_POSTGRESQL_NOW = "CAST(extract(epoch from clock_timestamp()) AS double precision)"
_SQLITE_NOW = "((julianday('now') - 2440587.5) * 86400.0)"

_SET = """
    UPDATE recipient SET status = r.status, attempts = r.attempts, smtp_code = r.code, enhanced_code = r.enhanced,
        reply = r.reply, relay = r.relay, queue_id = r.queue_id, intent_at = NULL,
        sent_at = CASE WHEN r.status = 'sent' THEN {now} END,
        next_attempt_at = {now} + r.delay
"""
_GUARD = "WHERE recipient.id = r.id AND recipient.status = r.was AND recipient.attempts = r.attempts_was"
_POSTGRESQL_ROWS = """
    FROM json_to_recordset(CAST(:rows AS json)) AS r(id bigint, was text, attempts_was int, status text, attempts int,
        delay double precision, code int, enhanced text, reply text, relay text, queue_id text)
"""
_SQLITE_ROWS = """
    FROM (SELECT value ->> '$.id' AS id, value ->> '$.was' AS was, value ->> '$.attempts_was' AS attempts_was,
        value ->> '$.status' AS status, value ->> '$.attempts' AS attempts, value ->> '$.delay' AS delay,
        value ->> '$.code' AS code, value ->> '$.enhanced' AS enhanced, value ->> '$.reply' AS reply,
        value ->> '$.relay' AS relay, value ->> '$.queue_id' AS queue_id FROM json_each(:rows)) AS r
"""

WRITE_POSTGRESQL: TextClause = text(_SET.format(now=_POSTGRESQL_NOW) + _POSTGRESQL_ROWS + _GUARD)
WRITE_SQLITE: TextClause = text(_SET.format(now=_SQLITE_NOW) + _SQLITE_ROWS + _GUARD)
"""`:rows` as `rows_json` makes them. Changes only rows that are as they were read; the row count tells how many."""

_COUNTS = ", ".join(f"{status} = batch.{status} + coalesce(b.{status}, 0)" for status in STATUSES)
_COUNT_COLUMNS = ", ".join(f"{status} int" for status in STATUSES)
RECORD_POSTGRESQL: TextClause = text(f"""
    WITH locked AS (
        UPDATE batch SET lease_until = {_POSTGRESQL_NOW} + CAST(:lease AS double precision), {_COUNTS}
        FROM json_to_recordset(CAST(:batches AS json)) AS b(id bigint, generation int, {_COUNT_COLUMNS})
        WHERE batch.id = b.id AND batch.generation = b.generation
        RETURNING batch.id
    ), written AS (
        {_SET.format(now=_POSTGRESQL_NOW)} {_POSTGRESQL_ROWS} {_GUARD}
            AND (SELECT count(*) FROM locked) = CAST(:batch_count AS bigint)
        RETURNING recipient.id
    )
    SELECT 1 / CAST((SELECT count(*) FROM locked) = CAST(:batch_count AS bigint)
        AND (SELECT count(*) FROM written) = CAST(:row_count AS bigint) AS int)
""")
"""Lock, counts, rows and lease in one statement, or a division by zero that undoes all of it. The rows wait for the
locks, because they are written only where the number of locks is right."""


def rows_json(results: Sequence[Result]) -> str:
    return orjson.dumps(
        [
            {
                "id": result.recipient_id,
                "was": result.was,
                "attempts_was": result.attempts_was,
                "status": result.status,
                "attempts": result.attempts,
                "delay": result.delay_seconds,
                "code": result.code,
                "enhanced": result.enhanced,
                "reply": result.reply,
                "relay": result.relay,
                "queue_id": result.queue_id,
            }
            for result in results
        ]
    ).decode()

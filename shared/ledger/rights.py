"""The rights of each service's database role: no more than its statements need. PostgreSQL only.

A superuser creates the roles once (`vashsender access new` writes the statements). Every migration grants the rights on
the tables in its transaction, as the role that owns the tables. A new table or column needs a place in `RIGHTS`, or a
test fails.
"""

from collections.abc import Mapping, Sequence

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import SQLModel

import shared.ledger.erasure_tables
import shared.ledger.forgetting_tables
import shared.ledger.models
import shared.ledger.outbox_tables
import shared.ledger.report_tables
import shared.ledger.tenants
import shared.ledger.webhook_tables  # noqa: F401 - these fill SQLModel.metadata

OWNER = "vashsender_owner"
"""The role that migrates and owns everything."""

HOUSEKEEPING = "housekeeping"
"""The role that deletes entries of the audit past their retention."""

VERSION_TABLE = "alembic_version"

Columns = Sequence[str]
ALL: Columns = ()
"""Every column: a right on the whole table."""

SELECT, INSERT, UPDATE, DELETE = "SELECT", "INSERT", "UPDATE", "DELETE"

_READ: Mapping[str, Columns] = {SELECT: ALL}
_COUNTS = ("pending", "deferred", "sent", "failed", "suppressed", "expired", "cancelled", "unknown")
_REPORTED = ("bounced", "complained", "unsubscribed", "gone")
_TAKEN = (
    *("state", "generation", "owner", "lease_until", "released_at", "due_at"),
    *("rescues", "fruitless", "rescued_mark"),
)
# To lock a batch takes its counts out of the rollup.
_ROLLUP: Mapping[str, Columns] = {SELECT: ALL, UPDATE: ALL}
_NOTES: Mapping[str, Columns] = {SELECT: ALL, INSERT: ALL, UPDATE: ("times", "text", "last_at")}
_LIFE: Mapping[str, Columns] = {SELECT: ALL, INSERT: ALL, UPDATE: ALL}
_ALL_OF_IT: Mapping[str, Columns] = {**_LIFE, DELETE: ALL}
_LIMITS = (
    *("emails_per_second", "emails_per_hour", "emails_per_day"),
    *("warmup_start", "warmup_growth", "warmup_until", "warmup_day"),
)
_WANTED: Mapping[str, Columns] = {SELECT: ("project_id", "wanted")}
_TOLD: Mapping[str, Columns] = {INSERT: ALL}
_RESERVED = ("next_at", "hour", "hour_count", "day", "day_count")
# Who a recipient is, and that an open one of an erased person is cancelled.
_ERASED = ("email", "email_key", "data", "reply", "queue_id", "status", "next_attempt_at")
_CAMPAIGN_WITHOUT_CONTENT: Columns = (
    *("id", "project_id", "name", "status", "stop_as", "reopen", "reason", "blocked_by", "delivery"),
    *("breaker", "list_breaker_off"),
    *("emails_per_second", "priority", "max_retries", "retry_delay_seconds", "test_of", "total", "cursor"),
    *("created_at", "scheduled_at", "deliver_by", "started_at", "finished_at"),
)

RIGHTS: Mapping[str, Mapping[str, Mapping[str, Columns]]] = {
    # Accepts campaigns and shows them, erases people, and deletes what is past its retention; writes no other results
    # of recipients and batches.
    "api": {
        "project": {SELECT: ALL, INSERT: ALL, UPDATE: ALL},
        "api_key": {SELECT: ALL, INSERT: ALL, UPDATE: ("revoked_at", "expires_at", "last_used_at")},
        "domain": {SELECT: ALL, INSERT: ALL, UPDATE: ("bounce_domain",), DELETE: ALL},
        "page_session": {SELECT: ALL, INSERT: ALL, UPDATE: ("seen_at", "ended_at"), DELETE: ALL},
        "audit_entry": {SELECT: ALL, INSERT: ALL},
        "campaign": {SELECT: ALL, INSERT: ALL, UPDATE: ALL, DELETE: ALL},
        "recipient": {SELECT: ALL, INSERT: ALL, UPDATE: _ERASED, DELETE: ALL},
        "batch": {SELECT: ALL, UPDATE: (*_REPORTED, *_COUNTS, "due_at", "rolled_up")},
        "rollup": _ROLLUP,
        "report": {SELECT: ALL, INSERT: ALL, UPDATE: ("email", "email_key", "text", "reporter"), DELETE: ALL},
        "erasure": _ALL_OF_IT,
        "hash_secret": _ALL_OF_IT,
        "forgotten_campaign": _LIFE,
        "forgotten_people": {SELECT: ALL, INSERT: ALL},
        "bookmark": _LIFE,
        "complaint_rate": _ALL_OF_IT,
        "import": {SELECT: ALL, INSERT: ALL, UPDATE: ALL},
        "suppression": {SELECT: ALL, INSERT: ALL, UPDATE: ("provisional", "detail"), DELETE: ALL},
        "relay_refusals": {SELECT: ALL, UPDATE: ("reply",), DELETE: ALL},
        "spread_refusals": {SELECT: ALL, UPDATE: ("reply",), DELETE: ALL},
        "timeline": _NOTES,
        "progress_point": _READ,
        "idempotency_key": {SELECT: ALL, INSERT: ALL, UPDATE: ALL, DELETE: ALL},
        "service_instance": _LIFE,
        "rate_limit": {SELECT: ALL, INSERT: ALL, UPDATE: _LIMITS, DELETE: ALL},
        "event_stream": {SELECT: ALL, INSERT: ALL, UPDATE: ("enabled", "wanted")},
        "outbox": {SELECT: ALL, INSERT: ALL, UPDATE: ("facts",)},
        "sending_fact": _READ,
        "webhook_endpoint": _ALL_OF_IT,
        # It makes secrets, and can read none.
        "webhook_secret": {
            SELECT: ("id", "endpoint_id", "created_at", "expires_at"),
            INSERT: ALL,
            UPDATE: ("expires_at",),
            DELETE: ALL,
        },
        "webhook_set_aside": {SELECT: ALL, UPDATE: ("again", "error"), DELETE: ALL},
    },
    # Moves campaigns and batches; sees no address and no content.
    "dispatcher": {
        "project": {SELECT: ("id", "retention_days")},
        "campaign": {
            SELECT: _CAMPAIGN_WITHOUT_CONTENT,
            UPDATE: (
                *("status", "stop_as", "reopen", "reason", "blocked_by", "breaker"),
                *("cursor", "started_at", "finished_at"),
            ),
        },
        "recipient": {
            SELECT: ("id", "campaign_id", "status", "intent_at", "smtp_code", "enhanced_code", "sent_at"),
            UPDATE: ("status", "attempts", "next_attempt_at", "intent_at", "sent_at"),
        },
        "batch": {SELECT: ALL, INSERT: ALL, UPDATE: (*_TAKEN, "size", "span_seconds", *_COUNTS, "gone", "rolled_up")},
        "rollup": _LIFE,
        "relay_refusals": {SELECT: ("campaign_id", "relay", "reply", "tripped_at")},
        "spread_refusals": {SELECT: ("campaign_id", "reply", "tripped_at")},
        "complaint_rate": _READ,
        "import": {SELECT: ("campaign_id", "state")},
        "timeline": _NOTES,
        "progress_point": {SELECT: ALL, INSERT: ALL, DELETE: ALL},
        "service_instance": _LIFE,
        "bookmark": {**_LIFE, DELETE: ALL},
        "rate_limit": {SELECT: ALL, INSERT: ALL, UPDATE: ("free_at",)},  # updated by version 0.1.0
        "event_stream": {SELECT: ALL, UPDATE: ("last_position", "forgotten_position")},
        "outbox": {
            SELECT: ("id", "project_id", "at", "position", "size"),
            INSERT: ALL,
            UPDATE: ("position",),
            DELETE: ALL,
        },
    },
    # Reads what it sends and records the results; creates only suppressions, timeline entries and limits. It is what
    # keeps the limits, and writes those that the URLs of its relays set.
    "sender": {
        "project": {SELECT: ("id", "name", "sender_id")},
        "domain": _READ,
        "campaign": {SELECT: ALL, UPDATE: ("status", "reason", "blocked_by", "breaker")},
        "recipient": {
            SELECT: ALL,
            UPDATE: (
                *("status", "attempts", "next_attempt_at", "intent_at", "smtp_code", "enhanced_code"),
                *("reply", "relay", "queue_id", "sent_at"),
            ),
        },
        "batch": {
            SELECT: ALL,
            UPDATE: (
                *(*_TAKEN, "claimed_at", "dated_at", "has_tokens", "size", "span_seconds"),
                *(*_COUNTS, "gone", "rolled_up"),
            ),
        },
        "rollup": _ROLLUP,
        "suppression": {
            SELECT: ("id", "project_id", "email", "email_key", "campaign_id", "reason", "created_at", "provisional"),
            INSERT: ALL,
            UPDATE: ("provisional",),
        },
        "hash_secret": {SELECT: ("sealed_for", "sealed")},
        "relay_refusals": _LIFE,
        "spread_refusals": _LIFE,
        "provider_share": {**_LIFE, DELETE: ALL},
        "sending_fact": {**_LIFE, DELETE: ALL},
        "timeline": _NOTES,
        "rate_limit": {SELECT: ALL, INSERT: ALL, UPDATE: (*_LIMITS, *_RESERVED)},
        "event_stream": _WANTED,
        "outbox": _TOLD,
    },
    # Takes in what comes back from strangers: records reports and suppresses; sees no content and no fields.
    "feedback": {
        "project": {SELECT: ("id",)},
        "domain": {SELECT: ("name", "project_id", "bounce_domain")},
        "campaign": {SELECT: ("id", "project_id", "forgotten_at")},
        "recipient": {SELECT: ("id", "campaign_id", "email", "email_key", "status")},
        "batch": {SELECT: ALL, UPDATE: (*_REPORTED, "rolled_up")},
        "rollup": _ROLLUP,
        "report": {SELECT: ALL, INSERT: ALL, DELETE: ALL},
        "forgotten_people": _READ,
        "probe": {
            SELECT: ("token", "created_at", "arrived_at"),
            UPDATE: ("arrived_at", "protocol", "peer", "helo", "sender", "message"),
        },
        "suppression": {
            SELECT: ("id", "project_id", "email_key", "provisional"),
            INSERT: ALL,
            DELETE: ALL,
        },
        "timeline": _NOTES,
        "service_instance": _LIFE,
        "event_stream": _WANTED,
        "outbox": _TOLD,
    },
    # Checks and repairs campaigns and batches; sees no address and no content.
    "watchdog": {
        "campaign": {SELECT: _CAMPAIGN_WITHOUT_CONTENT, UPDATE: ("cursor", "blocked_by")},
        "recipient": {SELECT: ("id", "campaign_id", "status")},
        "batch": {SELECT: ALL, INSERT: ALL, UPDATE: (*_TAKEN, "size", *_COUNTS, "rolled_up")},
        "rollup": _ROLLUP,
        "import": {SELECT: ("campaign_id", "state")},
        "timeline": {**_NOTES, DELETE: ALL},
        "progress_point": _READ,
        "service_instance": {**_LIFE, DELETE: ALL},
        "bookmark": {**_LIFE, DELETE: ALL},
    },
    # Tells endpoints what happened. It faces strangers: it sees no content, no key and no campaign.
    "webhooks": {
        "recipient": {SELECT: ("id", "email")},
        "event_stream": {SELECT: ALL, UPDATE: ("published_position", "publisher", "publisher_until")},
        "outbox": {SELECT: ALL, INSERT: ALL},
        "webhook_endpoint": {
            SELECT: ALL,
            UPDATE: (
                *("state", "cursor", "failing_since", "failures", "next_attempt_at", "last_status", "last_error"),
                *("last_success_at", "refused_in_a_row", "lease_owner", "lease_until"),
            ),
        },
        "webhook_secret": _READ,
        "webhook_set_aside": _ALL_OF_IT,
        "audit_entry": {SELECT: ("id",), INSERT: ALL},
        "service_instance": _LIFE,
    },
    # Not a service: `vashsender audit forget` deletes old entries, and no other role can.
    HOUSEKEEPING: {"audit_entry": {SELECT: ("id", "at"), DELETE: ALL}},
}
"""By service and table: each right with its columns."""


def role_of(service: str) -> str:
    """The database role of a service."""
    return f"vashsender_{service}"


async def grant(connection: AsyncConnection) -> Sequence[str]:
    """Grants the existing roles exactly the rights above, in the current transaction; returns their names.

    Does nothing if the roles do not exist or the user does not own the tables."""
    if not await _owns_tables(connection):
        return []
    known = {role_of(service): tables for service, tables in RIGHTS.items()}
    found = await connection.execute(
        text("SELECT rolname FROM pg_roles WHERE rolname = ANY(:names) ORDER BY rolname"), {"names": list(known)}
    )
    roles = list(found.scalars())
    sequences = await _sequences(connection) if roles else {}
    for role in roles:
        for statement in _statements(role, known[role], sequences):
            await connection.exec_driver_sql(statement)
    return roles


def _statements(role: str, tables: Mapping[str, Mapping[str, Columns]], sequences: Mapping[str, str]) -> Sequence[str]:
    everything = ", ".join(_quoted(name) for name in (*SQLModel.metadata.tables, VERSION_TABLE))
    statements = [f"REVOKE ALL ON {everything} FROM {role}", f"GRANT SELECT ON {VERSION_TABLE} TO {role}"]
    for table, rights in tables.items():
        wanted = ", ".join(
            right + (f" ({', '.join(map(_quoted, names))})" if names else "") for right, names in rights.items()
        )
        statements.append(f"GRANT {wanted} ON {_quoted(table)} TO {role}")
        if INSERT in rights and table in sequences:
            statements.append(f"GRANT USAGE ON SEQUENCE {sequences[table]} TO {role}")
    return statements


async def _owns_tables(connection: AsyncConnection) -> bool:
    found = await connection.scalar(
        text("SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = to_regclass(:table)"),
        {"table": VERSION_TABLE},
    )
    return bool(found)


async def _sequences(connection: AsyncConnection) -> dict[str, str]:
    """The sequence of each table with numbered rows, quoted where needed."""
    numbered = [table.name for table in SQLModel.metadata.tables.values() if table.autoincrement_column is not None]
    found = await connection.execute(
        text(
            "SELECT name, pg_get_serial_sequence(quote_ident(name), 'id') FROM unnest(CAST(:names AS text[])) AS name"
        ),
        {"names": numbered},
    )
    return {row[0]: row[1] for row in found if row[1]}


def _quoted(name: str) -> str:
    return f'"{name}"'

"""Stores new recipients: a chunk in one statement, on SQLite and PostgreSQL alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import orjson
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from services.api.formats.new_recipient import NewRecipient
from services.api.usecases.campaign_row import CampaignRef
from services.api.usecases.erasure import erased_among
from shared.ledger.models import Recipient
from shared.ledger.rows import insert_missing


@dataclass(frozen=True, slots=True)
class Stored:
    """The result of storing a chunk."""

    accepted: int
    first_id: int | None  # of the new recipients; None if none were new
    last_id: int | None
    duplicates: Sequence[int]  # lines whose mailbox the campaign has already; no more than were asked for
    erased: Sequence[int] = ()  # lines of people who were erased


@dataclass(frozen=True, slots=True)
class Target:
    """Where recipients go."""

    campaign: CampaignRef
    import_id: int

    @property
    def campaign_id(self) -> UUID:
        return self.campaign.id


async def store(
    connection: AsyncConnection, target: Target, rows: Sequence[NewRecipient], duplicates_wanted: int
) -> Stored:
    """Stores rows whose keys differ from each other, except those that the campaign has already, and people who were
    erased. Raises HashesSealedError.

    One import of a campaign is open at a time, so recipients from before the chunk have smaller ids."""
    tenant = target.campaign.tenant
    keys = await erased_among(connection, tenant.project_id, tenant.hash_roots, [row.key for row in rows])
    erased = [row.line for row in rows if row.key in keys]
    rows = [row for row in rows if row.key not in keys] if keys else rows
    if not rows:
        return Stored(0, None, None, (), erased)
    if connection.dialect.name == "postgresql":
        accepted, first_id, last_id = await _into_postgresql(connection, target, rows)
    else:
        accepted, first_id, last_id = await _into_sqlite(connection, target, rows)
    missed = len(rows) - accepted
    duplicates: Sequence[int] = ()
    if missed and duplicates_wanted:
        duplicates = await _known_before(
            connection, target.campaign_id, rows, first_id or _BEYOND_ALL_IDS, min(missed, duplicates_wanted)
        )
    return Stored(accepted, first_id, last_id, duplicates, erased)


# One parameter per column instead of one per value: the driver sends three arrays, and the server unpacks them.
_INSERT_ARRAYS = text(
    """
    WITH stored AS (
        INSERT INTO recipient (campaign_id, import_id, email, email_key, data)
        SELECT :campaign_id, :import_id, email, email_key, data
        FROM unnest(CAST(:emails AS text[]), CAST(:keys AS text[]), CAST(:data AS text[]))
            WITH ORDINALITY AS given (email, email_key, data, position)
        ORDER BY position
        ON CONFLICT (campaign_id, email_key) DO NOTHING
        RETURNING id
    )
    SELECT count(*), min(id), max(id) FROM stored
    """
)

_KNOWN_POSTGRESQL = text(
    """
    SELECT position FROM unnest(CAST(:keys AS text[])) WITH ORDINALITY AS given (email_key, position)
    JOIN recipient ON recipient.campaign_id = :campaign_id AND recipient.email_key = given.email_key
    WHERE recipient.id < :before_id ORDER BY position LIMIT :wanted
    """
)

_KNOWN_SQLITE = text(
    """
    SELECT given.key + 1 FROM json_each(:keys) AS given
    JOIN recipient ON recipient.campaign_id = :campaign_id AND recipient.email_key = given.value
    WHERE recipient.id < :before_id ORDER BY given.key LIMIT :wanted
    """
)

_BEYOND_ALL_IDS = 2**63 - 1


async def _into_postgresql(
    connection: AsyncConnection, target: Target, rows: Sequence[NewRecipient]
) -> tuple[int, int | None, int | None]:
    result = await connection.execute(
        _INSERT_ARRAYS,
        {
            "campaign_id": target.campaign_id,
            "import_id": target.import_id,
            "emails": [row.email for row in rows],
            "keys": [row.key for row in rows],
            "data": [row.data for row in rows],
        },
    )
    accepted, first_id, last_id = result.one()
    return accepted, first_id, last_id


async def _into_sqlite(
    connection: AsyncConnection, target: Target, rows: Sequence[NewRecipient]
) -> tuple[int, int | None, int | None]:
    before = (await connection.execute(select(func.coalesce(func.max(col(Recipient.id)), 0)))).scalar_one()
    result = await connection.execute(
        insert_missing(connection, Recipient),
        [
            {
                "campaign_id": target.campaign_id,
                "import_id": target.import_id,
                "email": row.email,
                "email_key": row.key,
                "data": row.data,
            }
            for row in rows
        ],
    )
    if not result.rowcount:
        return 0, None, None
    # SQLite has one writer at a time, so every id beyond `before` comes from this statement.
    first_id, last_id = (
        await connection.execute(
            select(func.min(col(Recipient.id)), func.max(col(Recipient.id))).where(col(Recipient.id) > before)
        )
    ).one()
    return result.rowcount, first_id, last_id


async def _known_before(
    connection: AsyncConnection, campaign_id: UUID, rows: Sequence[NewRecipient], before_id: int, wanted: int
) -> Sequence[int]:
    keys = [row.key for row in rows]
    postgresql = connection.dialect.name == "postgresql"
    found = await connection.execute(
        _KNOWN_POSTGRESQL if postgresql else _KNOWN_SQLITE,
        {
            "campaign_id": campaign_id if postgresql else campaign_id.hex,
            "keys": keys if postgresql else orjson.dumps(keys).decode(),
            "before_id": before_id,
            "wanted": wanted,
        },
    )
    return [rows[position - 1].line for position in found.scalars()]

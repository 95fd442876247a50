"""The import table: opened, held, finished, undone. An import that does not finish leaves nothing behind.

One import of a campaign is unfinished at a time, and `send` waits for it. So an open one is held by the process that
receives it under a lease, and any other process gives it up once the lease has run out. See ImportState for the states.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, delete, func, insert, select, true, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from services.api.usecases import campaign_row
from services.api.usecases.campaign_row import CampaignRef
from services.api.usecases.errors import ImportEndedError
from services.api.usecases.quotas import require_room_for_import
from shared.ledger import timeline
from shared.ledger.database import Ledger, db_now
from shared.ledger.in_order import IN_ORDER, recipients_after
from shared.ledger.models import LONGEST_REPLY, Campaign, IdempotencyKey, Import, Recipient
from shared.ledger.states import ImportState
from shared.plain_text import printable

UNDO_CHUNK_ROWS = 5_000
LEASE_SECONDS = 20.0
"""How long an import belongs to its process after the last renewal, by the database's clock."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an import is."""

    accepted: int
    first_id: int | None  # of the recipients stored just now; None if none were new
    last_id: int | None


async def open_import(
    connection: AsyncConnection, campaign: CampaignRef, file_format: str, idempotency_key: str | None
) -> int:
    """Opens an import and returns its id. Raises NotFoundError, WrongStateError, ImportOpenError if the campaign has
    another import that is unfinished, or LimitReachedError."""
    row = await campaign_row.lock(connection, campaign)
    campaign_row.require_editable(row, "an import of recipients")
    await campaign_row.require_no_import(connection, campaign.id, "another import")
    project = await campaign.tenant.require_open(connection)
    await require_room_for_import(connection, project, campaign.tenant.limits)
    opened = await connection.execute(
        insert(Import)
        .values(
            campaign_id=campaign.id,
            format=file_format,
            state=ImportState.OPEN.value,
            created_at=db_now(),
            updated_at=db_now(),
            lease_until=db_now() + LEASE_SECONDS,
            idempotency_key=idempotency_key,
        )
        .returning(col(Import.id))
    )
    return int(opened.scalar_one())


async def hold(connection: AsyncConnection, import_id: int, **values: Any) -> str:
    """Locks the import's row, and with it the right to add rows, until the transaction ends; returns its format. Raises
    ImportEndedError if it is not open any more: its rows are being removed, so none may be added."""
    held = await connection.execute(
        update(Import)
        .where(_is_open(import_id))
        .values(updated_at=db_now(), lease_until=db_now() + LEASE_SECONDS, **values)
        .returning(col(Import.format))
    )
    row = held.first()
    if row is None:
        raise ImportEndedError(
            f"Import {import_id} is not open any more: it was cancelled or timed out.", import_id=import_id
        )
    return str(row.format)


async def progress(connection: AsyncConnection, import_id: int, made: Progress) -> None:
    """Notes how far an import is, in the transaction of the rows."""
    values: dict[str, Any] = {"accepted": made.accepted}
    if made.first_id is not None:
        values |= {"first_id": func.coalesce(col(Import.first_id), made.first_id), "last_id": made.last_id}
    await connection.execute(update(Import).where(col(Import.id) == import_id).values(**values))


async def finish(connection: AsyncConnection, campaign: CampaignRef, import_id: int, counts: Mapping[str, Any]) -> None:
    """Makes the rows of an import count, all at once. `counts` are columns of the import. Raises NotFoundError,
    WrongStateError and ImportEndedError."""
    row = await campaign_row.lock(connection, campaign)
    campaign_row.require_editable(row, "an import of recipients")
    file_format = await hold(connection, import_id, state=ImportState.DONE.value, finished_at=db_now(), **counts)
    await connection.execute(
        update(Campaign).where(col(Campaign.id) == campaign.id).values(total=col(Campaign.total) + counts["accepted"])
    )
    text = (
        f"Imported {counts['accepted']} recipients from {file_format.upper()}; left out "
        f"{counts['duplicates']} duplicates and {counts['invalid']} invalid."
    )
    await timeline.record(connection, campaign.id, "imported", text)


async def give_up(
    connection: AsyncConnection, import_id: int, error: str | None, *, only_abandoned: bool = False
) -> bool:
    """Decides that an open import is undone: because of an error, or because it was cancelled (None). Its idempotency
    key is released, so that the same request may come again. False: it was not open, or not abandoned."""
    ended = await connection.execute(
        update(Import)
        .where(_is_open(import_id), _is_abandoned() if only_abandoned else true())
        .values(state=ImportState.UNDOING.value, updated_at=db_now(), error=_plain(error))
        .returning(col(Import.campaign_id), col(Import.idempotency_key))
    )
    given_up = ended.first()
    if given_up is not None and given_up.idempotency_key is not None:
        project = select(col(Campaign.project_id)).where(col(Campaign.id) == given_up.campaign_id).scalar_subquery()
        await connection.execute(
            delete(IdempotencyKey).where(
                col(IdempotencyKey.project_id) == project,
                col(IdempotencyKey.key) == given_up.idempotency_key,
                col(IdempotencyKey.status_code).is_(None),
            )
        )
    return given_up is not None


async def undo(ledger: Ledger, import_id: int) -> str | None:
    """Removes the rows of an import that was given up, in short transactions. Two processes may do it at once. Returns
    how the import ended; None if there was nothing to undo."""
    after = 0
    while True:
        async with ledger.write() as connection:
            undoing = await connection.execute(
                update(Import)
                .where(col(Import.id) == import_id, col(Import.state) == ImportState.UNDOING.value)
                .values(updated_at=db_now())
                .returning(col(Import.campaign_id), col(Import.first_id), col(Import.error))
            )
            ending = undoing.first()
            if ending is None:
                return None
            removed: Sequence[int] = ()
            if ending.first_id is not None:
                removed = await _remove(connection, ending.campaign_id, import_id, max(ending.first_id - 1, after))
            if len(removed) == UNDO_CHUNK_ROWS:
                after = max(removed)
                continue
            outcome = ImportState.CANCELLED if ending.error is None else ImportState.FAILED
            await connection.execute(
                update(Import)
                .where(col(Import.id) == import_id)
                .values(state=outcome.value, accepted=0, first_id=None, last_id=None, finished_at=db_now())
            )
            why = f": {ending.error}" if ending.error else "."
            text = f"Import {import_id} {outcome}, nothing of it was kept{why}"
            await timeline.record(connection, ending.campaign_id, f"import-{outcome}", text)
            return outcome


async def renew(connection: AsyncConnection, import_ids: Collection[int]) -> None:
    """Renews the leases of imports, however slowly their rows arrive: the process that receives them is alive."""
    await connection.execute(
        update(Import)
        .where(col(Import.id).in_(sorted(import_ids)), col(Import.state) == ImportState.OPEN.value)
        .values(lease_until=db_now() + LEASE_SECONDS)
    )


async def stale(connection: AsyncConnection, timeout_seconds: float) -> Sequence[int]:
    """Open imports of which nothing has arrived for this long."""
    idle = col(Import.updated_at) < db_now() - timeout_seconds
    return await _ids(connection, ImportState.OPEN, idle)


async def abandoned(connection: AsyncConnection) -> Sequence[int]:
    """Open imports whose process has not renewed their lease, so it died."""
    return await _ids(connection, ImportState.OPEN, _is_abandoned())


async def given_up(connection: AsyncConnection, idle_seconds: float) -> Sequence[int]:
    """Imports whose rows are to be removed, and on which no process has worked for this long."""
    return await _ids(connection, ImportState.UNDOING, col(Import.updated_at) < db_now() - idle_seconds)


async def _ids(connection: AsyncConnection, state: ImportState, condition: ColumnElement[bool]) -> Sequence[int]:
    found = await connection.execute(select(col(Import.id)).where(col(Import.state) == state.value, condition))
    return found.scalars().all()


def _is_open(import_id: int) -> ColumnElement[bool]:
    return (col(Import.id) == import_id) & (col(Import.state) == ImportState.OPEN.value)


def _is_abandoned() -> ColumnElement[bool]:
    return col(Import.lease_until) < db_now()


async def _remove(connection: AsyncConnection, campaign_id: UUID, import_id: int, after: int) -> Sequence[int]:
    chunk = (
        select(col(Recipient.id))
        .where(recipients_after(campaign_id, after), col(Recipient.import_id) == import_id)
        .order_by(*IN_ORDER)
        .limit(UNDO_CHUNK_ROWS)
    )
    gone = await connection.execute(delete(Recipient).where(col(Recipient.id).in_(chunk)).returning(col(Recipient.id)))
    return gone.scalars().all()


def _plain(error: str | None) -> str | None:
    """A reason as one line that any database stores; it may quote a file."""
    return None if error is None else printable(error)[:LONGEST_REPLY]

"""The import table: opened, fenced, finished, undone. An import that does not finish leaves nothing behind.

States: `open` while rows arrive; `done`; or `undoing` while its rows are taken out again in chunks, then `failed` (with
an error) or `cancelled`. One import of a campaign is unfinished at a time, and `send` waits for it: so an open one is
held by the process that takes it in under a lease, and given up by any other once that has run out.
"""

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import ColumnElement, Row, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from services.api import campaign_row
from shared.errors import VashSenderError
from shared.ledger import timeline
from shared.ledger.database import Ledger, db_now
from shared.ledger.models import LONGEST_REPLY, Campaign, IdempotencyKey, Import, Recipient
from shared.ledger.states import ImportState

UNDO_CHUNK_ROWS = 5_000
LEASE_SECONDS = 20.0
"""An import is its process's for so long after the last renewal, by the database's clock."""


class ImportEndedError(VashSenderError):
    """The import was cancelled, timed out or deleted while its rows arrived."""


async def open_import(
    connection: AsyncConnection, project_id: UUID, campaign_id: UUID, file_format: str, idempotency_key: str | None
) -> int:
    """Opens an import and returns its id. Raises Problem: 404, or 409 in the wrong state or beside another import."""
    row = await campaign_row.lock(connection, project_id, campaign_id)
    campaign_row.require_editable(row, "an import of recipients")
    await campaign_row.require_no_import(connection, campaign_id, "another import")
    opened = await connection.execute(
        insert(Import)
        .values(
            campaign_id=campaign_id,
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


async def hold(connection: AsyncConnection, import_id: int, **values: Any) -> None:
    """Locks the import's row, and with it the right to add rows, for the transaction at hand. Raises ImportEndedError
    once it is not open any more: nobody adds rows behind the back of who takes them out."""
    held = await connection.execute(
        update(Import)
        .where(col(Import.id) == import_id, col(Import.state) == ImportState.OPEN.value)
        .values(updated_at=db_now(), lease_until=db_now() + LEASE_SECONDS, **values)
    )
    if held.rowcount == 0:
        raise ImportEndedError(f"Import {import_id} is not open any more: it was cancelled or timed out.")


async def finish(connection: AsyncConnection, campaign: Row[Any], import_id: int, accepted: int, text: str) -> None:
    """Makes the rows of an import count, all at once. `campaign` is locked and editable."""
    await hold(connection, import_id, state=ImportState.DONE.value, finished_at=db_now())
    await connection.execute(
        update(Campaign).where(col(Campaign.id) == campaign.id).values(total=col(Campaign.total) + accepted)
    )
    await timeline.record(connection, campaign.id, "imported", text)


async def give_up(connection: AsyncConnection, import_id: int, error: str | None) -> bool:
    """Decides that an open import is undone: failed with an error, or cancelled (None). False: it was not open."""
    ended = await connection.execute(
        update(Import)
        .where(col(Import.id) == import_id, col(Import.state) == ImportState.OPEN.value)
        .values(state=ImportState.UNDOING.value, updated_at=db_now(), error=_plain(error))
    )
    return ended.rowcount > 0


async def undo(ledger: Ledger, import_id: int) -> str | None:
    """Takes the rows of a given-up import out, in short transactions; two may do it at once. Returns how it ended,
    or None where there was nothing to undo."""
    after = 0
    while True:
        async with ledger.write() as connection:
            ending = (
                await connection.execute(
                    update(Import)
                    .where(col(Import.id) == import_id, col(Import.state) == ImportState.UNDOING.value)
                    .values(updated_at=db_now())
                    .returning(col(Import.campaign_id), col(Import.first_id), col(Import.error))
                )
            ).first()
            if ending is None:
                return None
            gone: Sequence[int] = ()
            if ending.first_id is not None:
                gone = await _take_out(connection, ending.campaign_id, import_id, max(ending.first_id - 1, after))
            if len(gone) == UNDO_CHUNK_ROWS:
                after = max(gone)
                continue
            outcome = ImportState.CANCELLED if ending.error is None else ImportState.FAILED
            await connection.execute(
                update(Import)
                .where(col(Import.id) == import_id)
                .values(state=outcome.value, accepted=0, first_id=None, last_id=None, finished_at=db_now())
            )
            text = f"Import {import_id} {outcome}, nothing of it was kept" + (
                f": {ending.error}" if ending.error else "."
            )
            await timeline.record(connection, ending.campaign_id, f"import-{outcome}", text)
            return outcome


def _plain(error: str | None) -> str | None:
    """A reason as one line that any database stores: what a file held may stand in it."""
    return None if error is None else "".join(one if one.isprintable() else "�" for one in error)[:LONGEST_REPLY]


async def _take_out(connection: AsyncConnection, campaign_id: UUID, import_id: int, after: int) -> Sequence[int]:
    chunk = (
        select(col(Recipient.id))
        .where(
            col(Recipient.campaign_id) == campaign_id, col(Recipient.id) > after, col(Recipient.import_id) == import_id
        )
        .order_by(col(Recipient.id))
        .limit(UNDO_CHUNK_ROWS)
    )
    gone = await connection.execute(delete(Recipient).where(col(Recipient.id).in_(chunk)).returning(col(Recipient.id)))
    return gone.scalars().all()


async def renew(connection: AsyncConnection, import_ids: Collection[int]) -> None:
    """Says that the process which takes these imports in still lives, however slowly their rows come."""
    await connection.execute(
        update(Import)
        .where(col(Import.id).in_(sorted(import_ids)), col(Import.state) == ImportState.OPEN.value)
        .values(lease_until=db_now() + LEASE_SECONDS)
    )


async def stale(connection: AsyncConnection, timeout_seconds: float) -> Sequence[int]:
    """Open imports that brought nothing for so long."""
    found = await connection.execute(
        select(col(Import.id)).where(
            col(Import.state) == ImportState.OPEN.value, col(Import.updated_at) < db_now() - timeout_seconds
        )
    )
    return found.scalars().all()


async def abandoned(connection: AsyncConnection) -> Sequence[int]:
    """Open imports whose process has not renewed their lease: it died."""
    found = await connection.execute(
        select(col(Import.id)).where(col(Import.state) == ImportState.OPEN.value, _is_abandoned())
    )
    return found.scalars().all()


async def take_over(connection: AsyncConnection, import_id: int, error: str) -> bool:
    """Gives an abandoned import up, and lets its Idempotency-Key go, so that the same request may come again.
    False: it was not abandoned."""
    taken = (
        await connection.execute(
            update(Import)
            .where(col(Import.id) == import_id, col(Import.state) == ImportState.OPEN.value, _is_abandoned())
            .values(state=ImportState.UNDOING.value, updated_at=db_now(), error=error)
            .returning(col(Import.campaign_id), col(Import.idempotency_key))
        )
    ).first()
    if taken is not None and taken.idempotency_key is not None:
        project = select(col(Campaign.project_id)).where(col(Campaign.id) == taken.campaign_id).scalar_subquery()
        await connection.execute(
            delete(IdempotencyKey).where(
                col(IdempotencyKey.project_id) == project,
                col(IdempotencyKey.key) == taken.idempotency_key,
                col(IdempotencyKey.status_code).is_(None),
            )
        )
    return taken is not None


def _is_abandoned() -> ColumnElement[bool]:
    return col(Import.lease_until) < db_now()


async def given_up(connection: AsyncConnection, idle_seconds: float) -> Sequence[int]:
    """Imports whose rows are to be taken out and that nobody has worked on for so long."""
    found = await connection.execute(
        select(col(Import.id)).where(
            col(Import.state) == ImportState.UNDOING.value, col(Import.updated_at) < db_now() - idle_seconds
        )
    )
    return found.scalars().all()


async def progress(
    connection: AsyncConnection, import_id: int, *, first_id: int | None, last_id: int | None, **counts: Any
) -> None:
    """Notes how far an import is, in the transaction of the rows."""
    values = dict(counts)
    if first_id is not None:
        values |= {"first_id": func.coalesce(col(Import.first_id), first_id), "last_id": last_id}
    await connection.execute(update(Import).where(col(Import.id) == import_id).values(**values))


def problems_json(problems: Sequence[dict[str, Any]]) -> str:
    return orjson.dumps(problems).decode()

"""The import table: opened, fenced, finished, undone. An import that does not finish leaves nothing behind.

States: `open` while rows arrive; `done`; or `undoing` while its rows are taken out again in chunks, then `failed` (with
an error) or `cancelled`. One import of a campaign is unfinished at a time, and `send` waits for it.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import Row, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from services.api import campaign_row
from shared.errors import VashSenderError
from shared.ledger import timeline
from shared.ledger.database import Ledger, db_now
from shared.ledger.models import LONGEST_REPLY, Campaign, Import, Recipient
from shared.ledger.states import ImportState

UNDO_CHUNK_ROWS = 5_000


class ImportEndedError(VashSenderError):
    """The import was cancelled, timed out or deleted while its rows arrived."""


async def open_import(connection: AsyncConnection, project_id: UUID, campaign_id: UUID, file_format: str) -> int:
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
        .values(updated_at=db_now(), **values)
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


async def stale(connection: AsyncConnection, timeout_seconds: float) -> Sequence[int]:
    """Open imports that brought nothing for so long."""
    found = await connection.execute(
        select(col(Import.id)).where(
            col(Import.state) == ImportState.OPEN.value, col(Import.updated_at) < db_now() - timeout_seconds
        )
    )
    return found.scalars().all()


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

"""Bookmarks: where long work on the ledger goes on after its process was killed. One row per piece of work."""

from collections.abc import Mapping
from typing import Any

import orjson
from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from shared.ledger import rows
from shared.ledger.database import db_now
from shared.ledger.models import Bookmark


async def read(connection: AsyncConnection, name: str) -> Mapping[str, Any]:
    """What was written last under this name; empty if nothing was."""
    found = await connection.scalar(select(col(Bookmark.value)).where(col(Bookmark.name) == name))
    return {} if found is None else orjson.loads(found)


async def write(connection: AsyncConnection, name: str, value: Mapping[str, Any]) -> None:
    """Replaces what was written under this name. Of two writers at the same time, the last one wins."""
    new = {"name": name, "value": orjson.dumps(value).decode(), "at": db_now()}
    await rows.upsert(connection, Bookmark, new, key=("name",))


async def remove(connection: AsyncConnection, *names: str) -> None:
    """Forgets them: the work is done."""
    await connection.execute(delete(Bookmark).where(col(Bookmark.name).in_(names)))

"""Imports as they are shown."""

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from services.api.shapes.common import Page
from services.api.shapes.imports import ImportOut
from services.api.usecases import campaign_row
from services.api.usecases.campaign_row import CampaignRef
from services.api.usecases.errors import NotFoundError
from services.api.usecases.paging import cut
from shared.ledger.models import Import

_IMPORTS = select(Import.__table__)  # type: ignore[attr-defined]


async def list_imports(
    connection: AsyncConnection, campaign: CampaignRef, cursor: int | None, limit: int
) -> Page[ImportOut]:
    """A campaign's imports, newest first, from below the import `cursor`. Raises NotFoundError."""
    await campaign_row.find(connection, campaign)
    query = _IMPORTS.where(col(Import.campaign_id) == campaign.id)
    if cursor is not None:
        query = query.where(col(Import.id) < cursor)
    found = await connection.execute(query.order_by(col(Import.id).desc()).limit(limit + 1))
    rows, following = cut(found.all(), limit)
    return Page(data=[ImportOut.model_validate(row) for row in rows], next_cursor=following)


async def show_import(connection: AsyncConnection, campaign: CampaignRef, import_id: int) -> ImportOut:
    """Raises NotFoundError."""
    await campaign_row.find(connection, campaign)
    found = await connection.execute(
        _IMPORTS.where(col(Import.id) == import_id, col(Import.campaign_id) == campaign.id)
    )
    row = found.first()
    if row is None:
        raise NotFoundError("import with this id in this campaign")
    return ImportOut.model_validate(row)

"""Nothing starts on a campaign while an import of it is unfinished."""

from uuid import UUID

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Mapped
from sqlmodel import col

from shared.ledger.models import Import
from shared.ledger.states import IMPORT_UNFINISHED


def importing(campaign_id: UUID | Mapped[UUID]) -> ColumnElement[bool]:
    """Whether a campaign, given by its id or its column, has an import that is open or being undone."""
    states = [state.value for state in IMPORT_UNFINISHED]
    return (
        select(col(Import.state)).where(col(Import.campaign_id) == campaign_id, col(Import.state).in_(states)).exists()
    )

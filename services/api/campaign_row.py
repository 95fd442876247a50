"""One campaign's row: found within the key's project, locked, and changed only from the states that allow it."""

from collections.abc import Collection
from typing import Any
from uuid import UUID

from sqlalchemy import Row, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from services.api.problems import Problem, not_found
from shared.ledger.models import Campaign, Import
from shared.ledger.states import (
    CAMPAIGN_TRANSITIONS,
    EDITABLE,
    IMPORT_UNFINISHED,
    CampaignStatus,
    ImportState,
    before,
)

_HEAVY = ("content",)
COLUMNS = tuple(column for column in Campaign.__table__.columns if column.name not in _HEAVY)  # type: ignore[attr-defined]
"""All but the content, which may weigh megabytes."""

_ACTIONS: dict[CampaignStatus, tuple[str, ...]] = {
    CampaignStatus.DRAFT: ("PATCH", "DELETE", "import recipients", "send", "test"),
    CampaignStatus.SCHEDULED: ("PATCH", "DELETE", "import recipients", "send", "cancel", "test"),
    CampaignStatus.QUEUED: ("pause", "cancel", "retry-failed", "resolve-unknown", "test"),
    CampaignStatus.SENDING: ("pause", "cancel", "retry-failed", "resolve-unknown", "test"),
    CampaignStatus.PAUSED: ("resume", "cancel", "retry-failed", "resolve-unknown", "test"),
    CampaignStatus.STOPPING: ("test",),
    CampaignStatus.FINISHED: ("retry-failed", "resolve-unknown", "test"),
    CampaignStatus.FAILED: ("retry-failed", "resolve-unknown", "test"),
    CampaignStatus.CANCELLED: ("test",),
    CampaignStatus.EXPIRED: ("test",),
}


async def find(connection: AsyncConnection, project_id: UUID, campaign_id: UUID) -> Row[Any]:
    """The campaign without its content. Raises Problem 404."""
    found = await connection.execute(
        select(*COLUMNS).where(col(Campaign.id) == campaign_id, col(Campaign.project_id) == project_id)
    )
    return _found(found.first())


async def content_of(connection: AsyncConnection, campaign_id: UUID) -> str:
    """The campaign's content as JSON; the campaign must exist."""
    found = await connection.execute(select(col(Campaign.content)).where(col(Campaign.id) == campaign_id))
    return str(found.scalar_one())


async def lock(connection: AsyncConnection, project_id: UUID, campaign_id: UUID) -> Row[Any]:
    """The campaign as `find` gives it; nobody else changes it before this transaction ends. Raises Problem 404."""
    locked = await connection.execute(
        update(Campaign)
        .where(col(Campaign.id) == campaign_id, col(Campaign.project_id) == project_id)
        .values(status=col(Campaign.status))
        .returning(*COLUMNS)
    )
    return _found(locked.first())


async def move(
    connection: AsyncConnection,
    row: Row[Any],
    status: CampaignStatus,
    action: str,
    *,
    among: Collection[CampaignStatus] = tuple(CampaignStatus),
    **values: Any,
) -> None:
    """Takes a locked campaign to `status`, if it may go there from where it is and that is `among` the given.
    Raises Problem 409."""
    sources = [source.value for source in before(status) if source in among]
    moved = await connection.execute(
        update(Campaign)
        .where(col(Campaign.id) == row.id, col(Campaign.status).in_(sources))
        .values(status=status.value, **values)
    )
    if moved.rowcount == 0:
        raise wrong_state(row, action)


def may(row: Row[Any], status: CampaignStatus) -> bool:
    """Whether the campaign may go to `status` from where it is."""
    return status in CAMPAIGN_TRANSITIONS[CampaignStatus(row.status)]


def possible(row: Row[Any]) -> tuple[str, ...]:
    """What can be done with a campaign in its state."""
    return _ACTIONS[CampaignStatus(row.status)]


def require_editable(row: Row[Any], action: str) -> None:
    """Raises Problem 409 once the campaign was accepted for sending."""
    if CampaignStatus(row.status) not in EDITABLE:
        raise wrong_state(row, action)


async def require_no_import(connection: AsyncConnection, campaign_id: UUID, action: str) -> None:
    """Raises Problem 409 while recipients are being imported, or taken out again."""
    unfinished = (
        await connection.execute(
            select(col(Import.id), col(Import.state))
            .where(col(Import.campaign_id) == campaign_id, col(Import.state).in_(IMPORT_UNFINISHED))
            .limit(1)
        )
    ).first()
    if unfinished is None:
        return
    advice = (
        "Wait for it, or cancel it"
        if unfinished.state == ImportState.OPEN
        else "It failed or was cancelled and its rows are being taken out; wait a moment"
    )
    raise Problem(
        409,
        "import-open",
        "An import is not done",
        f"Import {unfinished.id} of this campaign is not done, so {action} is not possible. {advice}.",
        import_id=unfinished.id,
    )


def wrong_state(row: Row[Any], action: str) -> Problem:
    return Problem(
        409,
        "wrong-state",
        "The campaign is in the wrong state for this",
        f"A campaign that is {row.status} does not allow {action}. Possible now: {', '.join(possible(row))}.",
        campaign_status=row.status,
        possible=possible(row),
    )


def _found(row: Row[Any] | None) -> Row[Any]:
    if row is None:
        raise not_found("campaign with this id")
    return row

"""Texts that may quote the address of an erased person: it is taken out of them.

Not searched, because they are many and hardly ever name another person: the replies to other recipients, and verified
reports about them.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import SQLModel, col

from services.api.usecases.erasure_steps import Person, Phase, Step
from shared.address_text import Mentions
from shared.ledger.models import Campaign, IdempotencyKey, Import, RelayRefusals, SpreadRefusals, Suppression, Timeline
from shared.ledger.outbox_tables import Outbox
from shared.ledger.report_tables import Report
from shared.ledger.webhook_tables import WebhookEndpoint, WebhookSetAside


async def in_campaigns(connection: AsyncConnection, mentions: Mentions, campaign_ids: Sequence[UUID]) -> None:
    """In the rows of these campaigns. Call it before their batches are locked: all do it in this order."""
    await _clean(connection, mentions, Campaign, ("reason", "blocked_by"), col(Campaign.id).in_(campaign_ids))


async def of_campaigns(connection: AsyncConnection, mentions: Mentions, campaign_ids: Sequence[UUID]) -> None:
    """What else the ledger says about these campaigns."""
    for model, names in _OF_CAMPAIGN.items():
        await _clean(connection, mentions, model, names, model.campaign_id.in_(campaign_ids))  # type: ignore[attr-defined]


_OF_CAMPAIGN: Mapping[type[SQLModel], Sequence[str]] = {
    Timeline: ("text",),
    Import: ("problems", "error"),
    RelayRefusals: ("reply",),
    SpreadRefusals: ("reply",),
}


def rows_of(model: Any, name: str, rows_at_once: int) -> Phase:
    """A phase that searches a column of all rows of the project, in the order of their ids."""

    async def search(connection: AsyncConnection, person: Person, cursor: str | None) -> Step:
        after = int(cursor or 0)
        some = select(col(model.id)).where(col(model.id) > after).order_by(col(model.id)).limit(rows_at_once).subquery()
        last = await connection.scalar(select(func.max(some.c.id)))
        if last is None:
            return Step(None)
        here = (col(model.project_id) == person.project_id, col(model.id) > after, col(model.id) <= last)
        await _clean(connection, person.mentions, model, (name,), *here)
        return Step(str(last))

    return search


SUPPRESSIONS = rows_of(Suppression, "detail", 5_000)
EVENTS = rows_of(Outbox, "facts", 100)


async def answers(connection: AsyncConnection, person: Person, _cursor: str | None) -> Step:
    """What was answered to requests and by endpoints, and what strangers have reported."""
    mine, mentions = col(IdempotencyKey.project_id) == person.project_id, person.mentions
    await connection.execute(delete(IdempotencyKey).where(mine, mentions.found_in(col(IdempotencyKey.key))))
    await _clean(connection, mentions, IdempotencyKey, ("response",), mine)
    own_endpoint = col(WebhookEndpoint.project_id) == person.project_id
    await _clean(connection, mentions, WebhookEndpoint, ("last_error",), own_endpoint)
    endpoints = select(col(WebhookEndpoint.id)).where(own_endpoint)
    await _clean(connection, mentions, WebhookSetAside, ("error",), col(WebhookSetAside.endpoint_id).in_(endpoints))
    whose = or_(col(Report.project_id) == person.project_id, col(Report.project_id).is_(None))
    await _clean(connection, mentions, Report, ("text",), col(Report.verified).is_(False), whose)
    return Step(None)


async def _clean(
    connection: AsyncConnection,
    mentions: Mentions,
    model: type[SQLModel],
    names: Sequence[str],
    *conditions: ColumnElement[bool],
) -> None:
    """Takes the address out of the columns `names` of the rows that meet the conditions."""
    table: Any = model.__table__  # type: ignore[attr-defined]
    keys = list(table.primary_key)
    found = await connection.execute(
        select(*keys, *(table.c[name] for name in names)).where(
            *conditions, or_(*(mentions.found_in(table.c[name]) for name in names))
        )
    )
    for row in found.all():
        texts = {name: row._mapping[name] for name in names}
        cleaned = {name: text and mentions.without(text) for name, text in texts.items()}
        if cleaned != texts:
            is_row = [key == row._mapping[key.name] for key in keys]
            await connection.execute(update(table).where(*is_row).values(cleaned))

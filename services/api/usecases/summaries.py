"""Campaigns as they are shown."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from services.api.shapes.campaigns import CampaignOut, CampaignSummary, ForgottenOut, Mailbox, RefusalOut
from services.api.usecases import campaign_row, limits
from services.api.usecases.campaign_row import CampaignRef
from shared import retries
from shared.ledger.counts import counts_of
from shared.ledger.database import clock
from shared.ledger.forgetting.summary import refusals
from shared.ledger.forgetting_tables import ForgottenCampaign


async def summaries(connection: AsyncConnection, rows: Sequence[Row[Any]]) -> list[CampaignSummary]:
    """Summaries of campaigns, in the order of their rows."""
    counts = await counts_of(connection, [row.id for row in rows])
    now = await clock(connection)
    waiting = await limits.waiting_for(connection, {row.project_id for row in rows})
    return [CampaignSummary.model_validate(_members(row, counts[row.id], waiting, now)) for row in rows]


async def summary(connection: AsyncConnection, campaign: CampaignRef) -> CampaignSummary:
    """Raises NotFoundError."""
    [found] = await summaries(connection, [await campaign_row.find(connection, campaign)])
    return found


async def show(connection: AsyncConnection, campaign: CampaignRef) -> CampaignOut:
    """A campaign with its content. Raises NotFoundError."""
    row, texts = await campaign_row.find_to_show(connection, campaign)
    content = orjson.loads(texts)
    counts = await counts_of(connection, [row.id])
    waiting = await limits.waiting_for(connection, [row.project_id])
    shown = _members(row, counts[row.id], waiting, row.now)
    shown |= {
        # An address that was valid when it was stored is shown, whatever the rules are now.
        "from": Mailbox.model_construct(email=row.from_email, name=row.from_name),
        "reply_to": _reply_to(row),
        "subject": content["subject"],
        "html": content.get("html"),
        "text": content.get("text"),
        "attachments": [one["filename"] for one in content.get("attachments", ())],
        "reopening": row.reopen,
        "rescued": row.rescued,
        "forgotten": None if row.forgotten_at is None else await forgotten(connection, row.id),
    }
    return CampaignOut.model_validate(shown)


async def forgotten(connection: AsyncConnection, campaign_id: UUID) -> ForgottenOut:
    """What is left of the results of a campaign that is forgotten."""
    found = await connection.execute(
        select(ForgottenCampaign.__table__).where(col(ForgottenCampaign.campaign_id) == campaign_id)  # type: ignore[attr-defined]
    )
    row = found.one()
    groups = [RefusalOut(**one._asdict()) for one in refusals(row.refusals)]
    return ForgottenOut(
        days=row.days,
        is_done=row.ended_at is not None,
        recipients=row.recipients,
        reports=row.reports,
        refusals=groups,
    )


def _reply_to(row: Row[Any]) -> str | Mailbox | None:
    return Mailbox.model_construct(email=row.reply_to, name=row.reply_to_name) if row.reply_to_name else row.reply_to


def _members(row: Row[Any], counts: Mapping[str, int], waiting: Mapping[UUID, str], now: float) -> dict[str, Any]:
    rates = {"limit_per_second": row.emails_per_second, "average_per_second": _average(row, counts, now)}
    max_retries, delay_seconds = retries.set_by_campaign(row.max_retries, row.retry_delay_seconds)
    return {
        **row._asdict(),
        "counts": counts,
        "rates": rates,
        "blocked_by": waiting.get(row.project_id, row.blocked_by) if row.status == "sending" else row.blocked_by,
        "max_retries": max_retries,
        "retry_delay_seconds": delay_seconds,
    }


def _average(row: Row[Any], counts: Mapping[str, int], now: float) -> float | None:
    if row.started_at is None:
        return None
    seconds = (row.finished_at or now) - row.started_at
    return round(counts["sent"] / seconds, 2) if seconds > 0 else None

"""Campaigns as they are shown."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import Row, Select, bindparam, exists, select, true
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from services.api.shapes.campaigns import CampaignOut, CampaignSummary, ForgottenOut, Mailbox, RefusalOut
from services.api.usecases import campaign_row, limits
from services.api.usecases.campaign_row import CampaignRef
from shared import retries
from shared.ledger.counts import SUMS, counts_in, counts_of, per_campaign, sum_of
from shared.ledger.database import Ledger, clock, db_now
from shared.ledger.forgetting.summary import refusals
from shared.ledger.forgetting_tables import ForgottenCampaign
from shared.ledger.models import Campaign, RateLimit
from shared.ledger.rate_limits import project_scope

_BATCHES = (
    per_campaign(*SUMS, sum_of("rescues").label("rescued"))
    .where(col(Campaign.id) == bindparam("campaign_id"))
    .subquery()
)
_SUMMARY: Select[Any] = (
    select(
        *campaign_row.COLUMNS,
        *_BATCHES.c,
        exists().where(col(RateLimit.scope) == bindparam("scope")).label("is_limited"),
        db_now().label("now"),
    )
    .join_from(Campaign.__table__, _BATCHES, true())  # type: ignore[attr-defined]
    .where(col(Campaign.id) == bindparam("campaign_id"), col(Campaign.project_id) == bindparam("its_project"))
)
"""In one round trip: people and programs ask for it again and again while a campaign is being sent."""

_SHOWN = _SUMMARY.add_columns(campaign_row.texts(col(Campaign.content)).label("texts"))


async def summaries(connection: AsyncConnection, rows: Sequence[Row[Any]]) -> list[CampaignSummary]:
    """Summaries of campaigns, in the order of their rows."""
    counts = await counts_of(connection, [row.id for row in rows])
    now = await clock(connection)
    waiting = await limits.waiting_for(connection, {row.project_id for row in rows}, now)
    return [CampaignSummary.model_validate(_members(row, counts[row.id], waiting, now)) for row in rows]


async def summary(connection: AsyncConnection, campaign: CampaignRef) -> CampaignSummary:
    """Raises NotFoundError."""
    return CampaignSummary.model_validate(await _shown(connection, await _one(connection, campaign, _SUMMARY)))


async def show(connection: AsyncConnection, campaign: CampaignRef) -> CampaignOut:
    """A campaign with its content. Raises NotFoundError."""
    return await _whole(connection, row=await _one(connection, campaign, _SHOWN))


async def show_alone(ledger: Ledger, campaign: CampaignRef) -> CampaignOut:
    """`show`, for those who ask again and again while a campaign is being sent."""
    row = campaign_row.found(next(iter(await ledger.read_alone(_SHOWN, _values(campaign))), None))
    if row.is_limited or row.forgotten_at is not None:
        return await ledger.read_at_once(partial(_whole, row=row))
    return _out(row, _members(row, counts_in(row), {}, row.now), None)


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


async def _one(connection: AsyncConnection, campaign: CampaignRef, statement: Select[Any]) -> Row[Any]:
    return campaign_row.found((await connection.execute(statement, _values(campaign))).first())


def _values(campaign: CampaignRef) -> dict[str, Any]:
    scope = project_scope(campaign.project_id)
    return {"campaign_id": campaign.id, "its_project": campaign.project_id, "scope": scope}


async def _whole(connection: AsyncConnection, row: Row[Any]) -> CampaignOut:
    """With what takes further statements."""
    left = None if row.forgotten_at is None else await forgotten(connection, row.id)
    return _out(row, await _shown(connection, row), left)


def _out(row: Row[Any], members: dict[str, Any], left: ForgottenOut | None) -> CampaignOut:
    content = orjson.loads(row.texts)
    return CampaignOut.model_validate(
        members
        | {
            # An address that was valid when it was stored is shown, whatever the rules are now.
            "from": Mailbox.model_construct(email=row.from_email, name=row.from_name),
            "reply_to": _reply_to(row),
            "subject": content["subject"],
            "html": content.get("html"),
            "text": content.get("text"),
            "attachments": [one["filename"] for one in content.get("attachments", ())],
            "reopening": row.reopen,
            "rescued": int(row.rescued),
            "forgotten": left,
        }
    )


async def _shown(connection: AsyncConnection, row: Row[Any]) -> dict[str, Any]:
    waiting = await limits.waiting_for(connection, [row.project_id], row.now) if row.is_limited else {}
    return _members(row, counts_in(row), waiting, row.now)


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

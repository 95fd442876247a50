"""Changing a campaign: its content and addresses while nothing was sent, its pace also while it is being sent."""

from collections.abc import Mapping
from typing import Any

import orjson
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from services.api.shapes.campaigns import CampaignOut, CampaignPatch
from services.api.shapes.common import moment
from services.api.usecases import campaign_row, content
from services.api.usecases.campaign_row import CampaignRef
from services.api.usecases.campaigns import CONTENT
from services.api.usecases.errors import ChangedMeanwhileError, WrongStateError, invalid
from services.api.usecases.fit import require_fit
from services.api.usecases.summaries import show
from shared import retries
from shared.content import CampaignContent
from shared.ledger import rate_limits, timeline
from shared.ledger.database import Ledger, clock
from shared.ledger.models import Campaign
from shared.ledger.rate_limits import campaign_scope
from shared.ledger.states import FINAL, CampaignStatus
from shared.relay_groups import RelayGroups

_WHILE_SENDING = {"emails_per_second", "priority", "deliver_by"}
_NOT_NULL = {"name", "sender", "subject", "delivery", "priority", "attachments", "deliver_by"}
_TIMES = {"scheduled_at", "deliver_by"}
_RETRIES = {"max_retries", "retry_delay_seconds"}
_SENDERS = {"sender", "envelope_from"}
_ACTION = "this change"
_OPEN = tuple(status for status in CampaignStatus if status not in (*FINAL, CampaignStatus.STOPPING))


async def content_bytes(ledger: Ledger, campaign: CampaignRef, patch: CampaignPatch) -> int:
    """How much stored content the change works on, in bytes; 0 if it leaves the content alone. Raises NotFoundError."""
    if not patch.model_fields_set & set(CONTENT):
        return 0
    async with ledger.read() as connection:
        await campaign_row.find(connection, campaign)
        return await campaign_row.content_bytes(connection, campaign.id)


async def change(
    ledger: Ledger,
    campaign: CampaignRef,
    patch: CampaignPatch,
    deliver_within_seconds: float,
    groups: RelayGroups,
) -> CampaignOut:
    """Changes what the patch sets; the default deadline is `deliver_within_seconds` after the start. Raises
    NotFoundError, ForgottenError, InvalidError, ForeignDomainError and ConflictError."""
    given = patch.model_fields_set
    _require_values(patch)
    campaign_row.require_group(groups, patch.relay_group)
    async with ledger.read() as connection:
        found = await campaign_row.find_kept(connection, campaign)
        previous = await campaign_row.content_of(connection, campaign.id) if given & set(CONTENT) else ""
    compiled, columns = None, _changed_columns(patch)
    if given & set(CONTENT):
        merged = orjson.loads(previous) | patch.model_dump(include=given & set(CONTENT), mode="json")
        fresh = CampaignContent.model_validate(merged)
        campaign_row.require_editable(found, _ACTION)
        compiled = await content.check(fresh)
        await require_fit(ledger, campaign.id, compiled)
        columns["content"] = fresh.model_dump_json()
    async with ledger.write() as connection:
        if given:
            row = await campaign_row.lock(connection, campaign)
            campaign_row.require_status(row, _OPEN, _ACTION)
            if given - _WHILE_SENDING:
                campaign_row.require_editable(row, _ACTION)
            if compiled is not None:
                await _require_unchanged(connection, row, found.total, previous)
            if given & _RETRIES:
                columns |= _retries(row, patch)
            if given & _TIMES:
                await _reschedule(connection, row, patch, deliver_within_seconds)
            await _apply(connection, row, columns)
            if given & _SENDERS:
                changed = await campaign_row.find(connection, campaign)
                await campaign_row.require_domains(connection, campaign, changed)
            await timeline.record(connection, campaign.id, "changed", f"Changed: {', '.join(sorted(given))}.")
        shown = await show(connection, campaign)
    return shown if compiled is None else content.with_warnings(shown, compiled)


def _require_values(patch: CampaignPatch) -> None:
    for name in sorted(patch.model_fields_set & _NOT_NULL):
        if getattr(patch, name) is None:
            raise invalid(f"#/{'from' if name == 'sender' else name}", "cannot be null; leave it out to keep it")


def _retries(row: Row[Any], patch: CampaignPatch) -> dict[str, int]:
    own = dict(zip(sorted(_RETRIES), retries.set_by_campaign(row.max_retries, row.retry_delay_seconds), strict=True))
    wanted = own | patch.model_dump(include=patch.model_fields_set & _RETRIES)
    return retries.stored(wanted["max_retries"], wanted["retry_delay_seconds"])


def _changed_columns(patch: CampaignPatch) -> dict[str, Any]:
    given = patch.model_fields_set
    columns = patch.model_dump(include=given - {*CONTENT, *_TIMES, "sender", "reply_to"})
    if patch.sender is not None:
        columns |= {"from_email": patch.sender.email, "from_name": patch.sender.name}
    if "reply_to" in given:
        columns |= campaign_row.reply_to_columns(patch.reply_to)
    if "envelope_from" in given and patch.envelope_from is None:
        columns["envelope_from"] = patch.sender.email if patch.sender else col(Campaign.from_email)
    return columns


async def _require_unchanged(connection: AsyncConnection, row: Row[Any], total: int, previous: str) -> None:
    """The content was compiled and compared with the recipients outside the transaction, so neither may have changed
    since."""
    await campaign_row.require_no_import(connection, row.id, "a change of its content")
    if row.total != total or await campaign_row.content_of(connection, row.id) != previous:
        raise ChangedMeanwhileError("Look at the campaign again, then repeat the change.")


async def _reschedule(
    connection: AsyncConnection, row: Row[Any], patch: CampaignPatch, deliver_within_seconds: float
) -> None:
    """Changes the start of a scheduled campaign, the deadline, or both. A default deadline moves with the start."""
    starts = "scheduled_at" in patch.model_fields_set
    if starts and row.status != CampaignStatus.SCHEDULED:
        raise WrongStateError(
            "scheduled_at can be changed only while a campaign is scheduled. POST .../send schedules a draft.",
            campaign_status=row.status,
        )
    if (starts and patch.scheduled_at is None) or row.status == CampaignStatus.DRAFT:
        if patch.deliver_by is not None:
            raise invalid("#/deliver_by", "a draft has no deadline; POST .../send sets it")
        await campaign_row.move(connection, row, CampaignStatus.DRAFT, _ACTION, scheduled_at=None, deliver_by=None)
        return
    now = await clock(connection)
    start = patch.scheduled_at.timestamp() if patch.scheduled_at is not None else row.scheduled_at
    if starts and start <= now:
        raise invalid("#/scheduled_at", "lies in the past; POST .../send without it sends now")
    deadline = row.deliver_by
    if patch.deliver_by is not None:
        deadline = patch.deliver_by.timestamp()
        if deadline <= max(now, start or now):
            raise invalid("#/deliver_by", "must lie in the future and after the start")
        text = f"To be delivered by {moment(deadline):%Y-%m-%d %H:%M:%S} UTC."
        await timeline.record(connection, row.id, "deadline", text)
    elif deadline is not None and abs(deadline - row.scheduled_at - deliver_within_seconds) < 1:
        deadline = start + deliver_within_seconds
    elif deadline is not None and deadline <= start:
        raise invalid("#/scheduled_at", "lies beyond deliver_by; set both")
    await campaign_row.change(connection, row, scheduled_at=start, deliver_by=deadline)


async def _apply(connection: AsyncConnection, row: Row[Any], columns: Mapping[str, Any]) -> None:
    if columns:
        await campaign_row.change(connection, row, **columns)
    if "emails_per_second" in columns:
        await rate_limits.put(connection, campaign_scope(row.id), columns["emails_per_second"])

"""Refusals of a campaign's content or sender, in the ledger: what all senders have seen, and the pause that follows.

Only recipients refused with the consequence SPREAD are noted. See `shared/faults/spread.py` for the rule.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import ColumnElement, Select, Uuid, delete, exists, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from shared.faults import spread
from shared.faults.spread import FORGOTTEN_AFTER, RECIPIENTS, Refused
from shared.ledger import campaigns, rows, timeline
from shared.ledger.counts import counts
from shared.ledger.database import Ledger, db_now
from shared.ledger.models import LONGEST_REPLY, Batch, Campaign, SpreadRefusals
from shared.ledger.states import CampaignStatus


@dataclass(frozen=True, slots=True)
class Noted:
    """Refusals that a sender has seen since it last wrote here."""

    seen: Sequence[Refused]
    replies: Mapping[str, str]  # by refusal: the newest reply, with the name of its relay


async def note(connection: AsyncConnection, campaign_id: UUID, noted: Noted) -> bool:
    """Adds refusals of a campaign that is being sent; returns whether it has to pause, now or since an earlier call.
    Repeating a call is harmless.

    Call it after the results themselves are recorded, in the same transaction."""
    table = SpreadRefusals
    status = await connection.scalar(select(col(Campaign.status)).where(col(Campaign.id) == campaign_id))
    if status != CampaignStatus.SENDING:
        return False  # what was in flight when it paused
    here = col(table.campaign_id) == campaign_id
    await connection.execute(rows.insert_missing(connection, table).values(campaign_id=campaign_id, recent="[]"))
    returning = (col(table.recent), col(table.sent_before), col(table.tripped_at))
    row = await rows.lock(connection, table.sent_before, here, returning=returning)
    if row is None or row.tripped_at is not None:
        return row is not None  # None: a person has just resumed the campaign
    recent = spread.newest([Refused(*one) for one in orjson.loads(row.recent)], noted.seen)
    sent_before, refusal = row.sent_before, spread.widespread(recent)
    if refusal is not None or sent_before is None:
        sent = await _sent(connection, campaign_id)
        if sent_before is None or sent - sent_before >= FORGOTTEN_AFTER:
            sent_before, recent = sent, list(noted.seen)
            refusal = spread.widespread(recent)
    values = {"recent": orjson.dumps([tuple(one) for one in recent]).decode(), "sent_before": sent_before}
    if refusal is not None:
        values |= {"reply": noted.replies.get(refusal, "")[:LONGEST_REPLY], "tripped_at": db_now()}
    await connection.execute(update(table).where(here).values(**values))
    return refusal is not None


async def suspects(ledger: Ledger, among: Collection[UUID] | None = None) -> Sequence[UUID]:
    """The campaigns being sent that have to pause; only of those in `among`, if given."""
    return sorted(row.id for row in await rows.read_among(ledger, _TRIPPED, among))


async def pause(connection: AsyncConnection, campaign_id: UUID) -> bool:
    """Pauses a campaign that is being sent, if it has to; returns whether it was paused. One that has no open
    recipient closes instead, with the same reply in its reason."""
    found = await connection.execute(
        select(col(SpreadRefusals.reply)).where(
            col(SpreadRefusals.campaign_id) == campaign_id, col(SpreadRefusals.tripped_at).is_not(None)
        )
    )
    row = found.first()
    if row is None:
        return False
    reason = f"{RECIPIENTS} or more recipients were refused in the same words: {row.reply}"[:LONGEST_REPLY]
    paused, sending = CampaignStatus.PAUSED, (CampaignStatus.SENDING,)
    if not await campaigns.move(connection, campaign_id, paused, _has_open(), from_=sending, reason=reason):
        return False
    await timeline.record(connection, campaign_id, "paused", reason)
    return True


async def forget(connection: AsyncConnection, campaign_id: UUID) -> None:
    """A person resumes the campaign: it counts from nothing."""
    await connection.execute(delete(SpreadRefusals).where(col(SpreadRefusals.campaign_id) == campaign_id))


def _has_open() -> ColumnElement[bool]:
    """A recipient of `campaign` is open."""
    open_ = col(Batch.pending) + col(Batch.deferred) > 0
    in_batches = exists().where(col(Batch.campaign_id) == col(Campaign.id), open_)
    return or_(in_batches, campaigns.has_uncut())


def _with_tripped(among: ColumnElement[bool]) -> Select[*tuple[Any, ...]]:
    tripped = select(col(SpreadRefusals.campaign_id)).where(col(SpreadRefusals.tripped_at).is_not(None))
    return select(col(Campaign.id)).where(among, campaigns.being_sent(), col(Campaign.id).in_(tripped), _has_open())


_TRIPPED = rows.all_or_among(col(Campaign.id), Uuid, _with_tripped)


async def _sent(connection: AsyncConnection, campaign_id: UUID) -> int:
    return (await counts(connection, campaign_id))["sent"]

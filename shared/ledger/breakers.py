"""The breakers in the ledger: what all senders have seen at a relay, the pause that follows, and a person's decision.

A sender notes results here in the transaction that records them, but only while a relay refuses nearly everything, so
usual campaigns never write here. See `shared/faults/breakers.py` for the rules.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import ColumnElement, Float, Select, Uuid, bindparam, delete, exists, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from shared.faults import breakers
from shared.faults.breakers import LIST_RESULTS, Breaker, Seen
from shared.ledger import campaigns, rows, timeline
from shared.ledger.counts import per_campaign, sum_of
from shared.ledger.database import Ledger, clock, db_now
from shared.ledger.in_order import IN_ORDER, recipients_after
from shared.ledger.models import LONGEST_REPLY, Batch, Campaign, Recipient, RelayRefusals, Suppression
from shared.ledger.states import CampaignStatus

MARGIN_SECONDS = 10.0
"""Suppressions made this long before the first of the refusals alike are undone with them."""

ROWS_FOR_DOMAINS = 200_000
"""Recipients of a list whose domains are counted."""

REASON = "bounced"
"""Of suppressions that follow from a relay's reply."""

_GONE = sum_of("gone")
_RESULTS = sum_of("sent") + sum_of("failed") + sum_of("unknown")


@dataclass(frozen=True, slots=True)
class Noted:
    """Results of one campaign at one relay that a sender has seen since it last wrote here."""

    relay: str
    seen: Sequence[tuple[int, str, str, float]]  # recipient id, domain, refusal, age in seconds: see Seen
    reply: str  # the newest refusal


async def note(connection: AsyncConnection, project_id: UUID, campaign_id: UUID, noted: Noted) -> bool:
    """Adds results at a relay; returns whether its breaker has tripped, now or before. Repeating a call is harmless.

    Call it after the results themselves are recorded, in the same transaction."""
    here = (col(RelayRefusals.campaign_id) == campaign_id, col(RelayRefusals.relay) == noted.relay)
    new = {"campaign_id": campaign_id, "relay": noted.relay, "recent": "[]"}
    await connection.execute(rows.insert_missing(connection, RelayRefusals).values(**new))
    table = RelayRefusals
    returning = (col(table.recent), col(table.list_domains), col(table.tripped_at), col(table.since))
    row = await rows.lock(connection, table.list_domains, *here, returning=returning)
    if row is None:
        return False  # a person has just decided
    now = await clock(connection)
    fresh = [Seen(recipient_id, domain, refusal, now - age) for recipient_id, domain, refusal, age in noted.seen]
    recent = breakers.newest([Seen(*one) for one in orjson.loads(row.recent)], fresh)
    domains, since = row.list_domains, row.since
    if row.tripped_at is None and (alike := breakers.alike(recent)) is not None:
        sent_before = await _has_sent(connection, campaign_id)
        trips = alike.domains >= breakers.domains_needed(sent_before=sent_before)
        if not trips:
            domains = domains or await _count_domains(connection, campaign_id)
            trips = alike.domains >= breakers.domains_needed(sent_before=sent_before, list_domains=domains)
        since = alike.since - MARGIN_SECONDS if trips else None
    values = {
        "recent": orjson.dumps([tuple(seen) for seen in recent]).decode(),
        "reply": noted.reply[:LONGEST_REPLY],
        "list_domains": domains,
    }
    if since is not None:
        values |= {"since": since, "tripped_at": func.coalesce(col(table.tripped_at), db_now())}
        await connection.execute(
            update(Suppression).where(*_made_by(project_id, campaign_id, since)).values(provisional=True)
        )
    await connection.execute(update(table).where(*here).values(**values))
    return since is not None


def _with_tripped(among: ColumnElement[bool]) -> Select[*tuple[Any, ...]]:
    tripped = select(col(RelayRefusals.campaign_id)).where(col(RelayRefusals.tripped_at).is_not(None))
    return select(col(Campaign.id)).where(among, campaigns.being_sent(), col(Campaign.id).in_(tripped))


def _with_old_list(among: ColumnElement[bool]) -> Select[*tuple[Any, ...]]:
    return (
        per_campaign(col(Campaign.id))
        .where(among, campaigns.being_sent(), col(Campaign.list_breaker_off).is_not(True))
        .having(bindparam("list_share", type_=Float) * _RESULTS < _GONE, _RESULTS >= LIST_RESULTS)
    )


_TRIPPED = rows.all_or_among(col(Campaign.id), Uuid, _with_tripped)
_OLD_LIST = rows.all_or_among(col(Campaign.id), Uuid, _with_old_list)


async def suspects(ledger: Ledger, list_share: float, among: Collection[UUID] | None = None) -> Sequence[UUID]:
    """The campaigns being sent that a breaker may have to pause: see `relay_trouble` and `list_trouble`. Only of those
    in `among`, if given."""
    relays = await rows.read_among(ledger, _TRIPPED, among)
    lists = await rows.read_among(ledger, _OLD_LIST, among, {"list_share": list_share})
    return sorted({row.id for row in (*relays, *lists)})


async def tripped(connection: AsyncConnection, campaign_ids: Collection[UUID]) -> Collection[UUID]:
    """Those of the campaigns that a relay's breaker must pause."""
    found = await connection.execute(
        select(col(RelayRefusals.campaign_id)).where(
            col(RelayRefusals.campaign_id).in_(campaign_ids), col(RelayRefusals.tripped_at).is_not(None)
        )
    )
    return set(found.scalars())


async def relay_trouble(connection: AsyncConnection, campaign_id: UUID) -> str | None:
    """Why the relay breaker must pause a campaign, for people; None if no relay has tripped it."""
    tripped = await connection.execute(
        select(col(RelayRefusals.relay), col(RelayRefusals.reply))
        .where(col(RelayRefusals.campaign_id) == campaign_id, col(RelayRefusals.tripped_at).is_not(None))
        .limit(1)
    )
    found = tripped.first()
    if found is None:
        return None
    return (
        f"{found.relay} refuses nearly everyone in the same words. Mend it, then resume: these recipients are retried"
        f" or stay failed. The reply: {found.reply}"
    )


async def list_trouble(connection: AsyncConnection, campaign_id: UUID, share: float) -> str | None:
    """Why the list breaker must pause a campaign, for people; None unless more than `share` of its results say that
    there is no such mailbox, or if a person has lifted the breaker."""
    lifted = await connection.scalar(select(col(Campaign.list_breaker_off)).where(col(Campaign.id) == campaign_id))
    if lifted:
        return None
    counted = await connection.execute(per_campaign(_GONE, _RESULTS).where(col(Campaign.id) == campaign_id))
    gone, tried = (int(number) for number in counted.one())
    if not breakers.list_trips(gone, tried, share):
        return None
    return (
        f"{gone} of {tried} results ({100 * gone // tried} %) say that there is no such mailbox: the list looks old."
        " Resume continues with it: these recipients are retried or stay failed."
    )


async def trouble(connection: AsyncConnection, campaign_id: UUID, list_share: float) -> tuple[Breaker, str] | None:
    """The breaker that must pause a campaign, and why; None if none must."""
    if (why := await relay_trouble(connection, campaign_id)) is not None:
        return Breaker.RELAY, why
    if (why := await list_trouble(connection, campaign_id, list_share)) is not None:
        return Breaker.LIST, why
    return None


async def pause(connection: AsyncConnection, campaign_id: UUID, breaker: Breaker, reason: str) -> bool:
    """Pauses a campaign that is being sent, and says why; returns whether it was. Resume then asks what to do."""
    reason = reason[:LONGEST_REPLY]
    values = {"reason": reason, "breaker": breaker.value}
    paused, sending = CampaignStatus.PAUSED, (CampaignStatus.SENDING,)
    if await campaigns.move(connection, campaign_id, paused, from_=sending, **values):
        await timeline.record(connection, campaign_id, "paused", reason)
        return True
    # A person has paused it meanwhile: resume asks all the same.
    unasked = (col(Campaign.status) == paused.value, col(Campaign.breaker).is_(None))
    await connection.execute(update(Campaign).where(col(Campaign.id) == campaign_id, *unasked).values(**values))
    return False


async def decide(
    connection: AsyncConnection, project_id: UUID, campaign_id: UUID, breaker: Breaker, *, retry: bool
) -> None:
    """Carries out what a person decided about the refusals of a tripped breaker: with `retry` the suppressions that
    followed from them are deleted; else they count. The breaker starts again, the one of the list never does.

    The caller has locked the campaign, and opens its failed recipients again."""
    since = 0.0
    if breaker is Breaker.RELAY:
        first = select(func.min(col(RelayRefusals.since))).where(col(RelayRefusals.campaign_id) == campaign_id)
        since = await connection.scalar(first) or 0.0
    # First, as senders do: to avoid deadlocks.
    await connection.execute(delete(RelayRefusals).where(col(RelayRefusals.campaign_id) == campaign_id))
    made = _made_by(project_id, campaign_id, since)
    if retry:
        await connection.execute(delete(Suppression).where(*made))
    else:
        await connection.execute(update(Suppression).where(*made).values(provisional=None))
    lifted = {"list_breaker_off": True} if breaker is Breaker.LIST else {}
    await connection.execute(update(Campaign).where(col(Campaign.id) == campaign_id).values(breaker=None, **lifted))


def _made_by(project_id: UUID, campaign_id: UUID, since: float) -> tuple[ColumnElement[bool], ...]:
    return (
        col(Suppression.project_id) == project_id,
        col(Suppression.campaign_id) == campaign_id,
        col(Suppression.reason) == REASON,
        col(Suppression.created_at) >= since,
    )


async def _has_sent(connection: AsyncConnection, campaign_id: UUID) -> bool:
    found = exists().where(col(Batch.campaign_id) == campaign_id, col(Batch.sent) > 0)
    return bool(await connection.scalar(select(found)))


async def _count_domains(connection: AsyncConnection, campaign_id: UUID) -> int:
    """The domains of a list, up to as many as are ever needed."""
    position = func.strpos if connection.dialect.name == "postgresql" else func.instr
    # Not the whole of a list of many millions: every result of this sender waits meanwhile.
    keys = (
        select(col(Recipient.email_key))
        .where(recipients_after(campaign_id))
        .order_by(*IN_ORDER)
        .limit(ROWS_FOR_DOMAINS)
    ).subquery()
    domains = select(func.substr(keys.c.email_key, position(keys.c.email_key, "@")).label("domain"))
    few = domains.distinct().limit(breakers.DOMAINS_AFTER_SENT).subquery()
    return int(await connection.scalar(select(func.count()).select_from(few)) or 0)

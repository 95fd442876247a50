"""Complaints, judged per provider and day: how many of the emails that a provider took on a day were called spam.

An email counts on the day it was sent (UTC), whenever its complaint comes. 0.1 % fires an alert; 0.3 % holds the
project's next campaign, until a person resumes it.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import ColumnElement, bindparam, delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from shared.ledger import rows
from shared.ledger.database import Ledger, clock, db_now, db_now_once
from shared.ledger.models import Campaign, Recipient
from shared.ledger.report_tables import COMPLAINTS, ComplaintRate, Report
from shared.ledger.states import RecipientStatus
from shared.providers import Providers

LEAST_COMPLAINTS = 5
LEAST_DELIVERED = 1000
"""Fewer on a day say nothing."""

ALERT_PER_THOUSAND = 1
HOLD_PER_THOUSAND = 3
JUDGED_DAYS = 7
"""Days on which emails are judged, and for which a hold lasts: complaints come within days."""

KEPT_DAYS = 90
"""Days for which the rates are kept."""

AGAIN_SECONDS = 600.0
"""A day that is not over is counted again after this time: more emails leave."""

MOST_COMPLAINTS = 50_000
"""That are looked at, the newest."""

_DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class _Day:
    """What a project sent to a provider on a day."""

    project_id: UUID
    provider: str
    #: Days since 1970 (UTC).
    day: int


async def judge(ledger: Ledger, providers: Providers) -> None:
    """A tick: counts what was delivered where complaints came in. Several processes may do it at the same time."""
    async with ledger.read() as connection:
        now = await clock(connection)
        complaints = await _complaints(connection, providers, now)
        known = await _known(connection, now)
        judged = {
            of: (len(people), await _delivered(connection, providers, of, len(people)))
            for of, people in complaints.items()
            if len(people) >= LEAST_COMPLAINTS and _is_due(known.get(of), of.day, len(people), now)
        }
    if judged:
        async with ledger.write() as connection:
            await connection.execute(delete(ComplaintRate).where(col(ComplaintRate.day) < int(now // _DAY) - KEPT_DAYS))
    for of, (complained, delivered) in judged.items():
        values = {"complaints": complained, "delivered": delivered, "judged_at": now}
        here = {"project_id": of.project_id, "provider": of.provider, "day": of.day}
        async with ledger.write() as connection:
            await rows.upsert(connection, ComplaintRate, here | values, key=here.keys(), changes=values.keys())


def _is_due(known: tuple[int, float] | None, day: int, complained: int, now: float) -> bool:
    if known is None or known[0] != complained:
        return True
    judged_at = known[1]
    return judged_at < (day + 1) * _DAY and now - judged_at >= AGAIN_SECONDS


async def _complaints(connection: AsyncConnection, providers: Providers, now: float) -> Mapping[_Day, Collection[int]]:
    """The recipients who complained, by the day on which their email was sent."""
    found = await connection.execute(
        select(col(Report.project_id), col(Recipient.id), col(Recipient.email_key), col(Recipient.sent_at))
        .join(Recipient, col(Recipient.id) == col(Report.recipient_id))
        .where(
            COMPLAINTS,
            col(Report.at) > now - 2 * JUDGED_DAYS * _DAY,
            col(Recipient.sent_at) > now - JUDGED_DAYS * _DAY,
        )
        .order_by(col(Report.at).desc())
        .limit(MOST_COMPLAINTS)
    )
    people: defaultdict[_Day, set[int]] = defaultdict(set)
    for row in found:
        provider = providers.name_of(row.email_key.rpartition("@")[2])
        people[_Day(row.project_id, provider, int(row.sent_at // _DAY))].add(row.id)
    return people


async def _known(connection: AsyncConnection, now: float) -> Mapping[_Day, tuple[int, float]]:
    """Complaints of the days that were judged, and when."""
    found = await connection.execute(
        select(
            col(ComplaintRate.project_id),
            col(ComplaintRate.provider),
            col(ComplaintRate.day),
            col(ComplaintRate.complaints),
            col(ComplaintRate.judged_at),
        ).where(col(ComplaintRate.day) >= int(now // _DAY) - JUDGED_DAYS)
    )
    return {_Day(row[0], row[1], row[2]): (row[3], row[4]) for row in found}


async def _delivered(connection: AsyncConnection, providers: Providers, of: _Day, complained: int) -> int:
    """Emails that the provider took on that day, counted until there are too many for an alert."""
    begin, end = of.day * _DAY, (of.day + 1) * _DAY
    sent_then = select(col(Campaign.id)).where(
        col(Campaign.project_id) == of.project_id,
        col(Campaign.started_at) < end,
        or_(col(Campaign.finished_at).is_(None), col(Campaign.finished_at) >= begin),
    )
    key = col(Recipient.email_key)
    position = func.strpos if connection.dialect.name == "postgresql" else func.instr
    enough = (
        select(col(Recipient.id))
        .where(
            col(Recipient.campaign_id).in_(sent_then),
            col(Recipient.status) == RecipientStatus.SENT.value,
            col(Recipient.sent_at) >= begin,
            col(Recipient.sent_at) < end,
            func.substr(key, position(key, "@") + 1).in_(providers.domains_of(of.provider)),
        )
        .limit(complained * 1000 // ALERT_PER_THOUSAND + 1)
        .subquery()
    )
    return int(await connection.scalar(select(func.count()).select_from(enough)) or 0)


def _reaches(per_thousand: int) -> ColumnElement[bool]:
    rate = ComplaintRate
    return (col(rate.complaints) * 1000 >= col(rate.delivered) * per_thousand) & (
        (col(rate.delivered) >= LEAST_DELIVERED) & (col(rate.complaints) >= LEAST_COMPLAINTS)
    )


async def over(connection: AsyncConnection) -> tuple[int, int]:
    """How many providers got too many complaints about a project's emails of the last two days: those that alert, and
    those of them that hold its next campaign."""
    yesterday = int(await clock(connection) // _DAY) - 1
    alerts, holds = (
        await connection.execute(
            select(
                func.count().filter(_reaches(ALERT_PER_THOUSAND)),
                func.count().filter(_reaches(HOLD_PER_THOUSAND)),
            ).where(col(ComplaintRate.day) >= yesterday)
        )
    ).one()
    return alerts, holds


_HELD = (
    select(
        col(Campaign.id),
        col(ComplaintRate.provider),
        col(ComplaintRate.day),
        col(ComplaintRate.complaints),
        col(ComplaintRate.delivered),
    )
    .join(ComplaintRate, col(ComplaintRate.project_id) == col(Campaign.project_id))
    .where(
        col(Campaign.id).in_(bindparam("campaign_ids", expanding=True)),
        col(Campaign.started_at).is_(None),
        col(Campaign.test_of).is_(None),
        col(ComplaintRate.lifted_at).is_(None),
        (col(ComplaintRate.day) + JUDGED_DAYS + 1) * _DAY > db_now_once(),
        _reaches(HOLD_PER_THOUSAND),
    )
    .order_by(col(Campaign.id), col(ComplaintRate.day), col(ComplaintRate.provider))
)


async def held(connection: AsyncConnection, campaign_ids: Collection[UUID]) -> Mapping[UUID, str]:
    """Those of the campaigns that have not begun and must wait for a person, and why. Tests are not held."""
    found = await connection.execute(_HELD, {"campaign_ids": list(campaign_ids)})
    return {
        row.id: f"{row.complaints} of {row.delivered} emails that {row.provider} took on"
        f" {datetime.fromtimestamp(row.day * _DAY, UTC):%Y-%m-%d} were called spam"
        f" ({100 * row.complaints / row.delivered:.2f} %). Providers refuse senders from 0.3 % on. Resume sends this"
        " campaign nevertheless."
        for row in found
    }


async def lift(connection: AsyncConnection, project_id: UUID) -> None:
    """A person resumes a campaign that was held: the providers and days that hold one now hold no other."""
    await connection.execute(
        update(ComplaintRate)
        .where(
            col(ComplaintRate.project_id) == project_id,
            col(ComplaintRate.lifted_at).is_(None),
            _reaches(HOLD_PER_THOUSAND),
        )
        .values(lifted_at=db_now())
    )

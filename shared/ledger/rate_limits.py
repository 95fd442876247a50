"""Limits: how many emails may begin per second, hour and day under a scope. One row per scope.

A sender reserves room for a few emails shortly before they begin, under all their limits at once. A row moves forward
with each reservation, so all senders together keep the limit. Room that is not used in time is lost, not caught up.
"""

import math
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Row, String, bindparam, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from shared.ledger import rows
from shared.ledger.database import Ledger, clock, db_now
from shared.ledger.models import RateLimit

NO_RATE = 1e9
"""A rate that stands for none, because the column cannot be empty."""

AHEAD_SECONDS = 0.25
"""Room is reserved this long before an email may begin, at most."""

BLOCK_SECONDS = 0.25
"""One reservation covers this much time, at most (but always one email)."""

MOST_AHEAD_SECONDS = AHEAD_SECONDS + BLOCK_SECONDS
"""No email has room later than this from now."""

LEAST_VALID_SECONDS = 0.04
"""Each email of a reservation has at least this long to begin."""

BURST_SHARE = 0.1
"""In any second at most (1 + this share) x rate + 1 emails begin."""

MARGIN_SECONDS = 0.05
"""What may pass between a sender's decision and the body's arrival at the relay, and counts there."""

CLOCK_SECONDS = 0.002
"""A database's clock may be this much off what it says: SQLite counts milliseconds."""

MOST_DRIFT = 0.001
"""Two clocks drift apart by at most this much per second; what is more is a step."""

HOUR_SECONDS, DAY_SECONDS = 3600, 86400

MOST_DAYS = 400
"""An estimate looks no further ahead."""

LONGEST_SCOPE = 200

Scopes = tuple[str, ...]


class Slot(NamedTuple):
    """One email may begin in this time, in monotonic seconds of this process."""

    begins: float
    ends: float


class Period(NamedTuple):
    """The hour and the day in which room was reserved, counted from 1970 in UTC."""

    hour: int
    day: int


class DatabaseClock:
    """What the database's clock says at a moment of this process's monotonic clock, and whether it has stepped.

    A reading is known to lie between two moments of ours. What several readings leave is narrower than one."""

    def __init__(self) -> None:
        #: The database's clock minus ours: at least, at most.
        self._offset = (-math.inf, math.inf)
        self._read_at = 0.0
        #: By the database's clock. After a step, nothing is reserved for the time that may be reserved already.
        self.reserve_from = 0.0

    async def read(self, connection: AsyncConnection) -> float:
        """The database's clock now."""
        before = time.monotonic()
        now = await clock(connection)
        self.note(before, now, time.monotonic())
        return now

    def note(self, before: float, now: float, after: float) -> None:
        """The clock said `now` between two moments of ours."""
        drift = MOST_DRIFT * (after - self._read_at)
        low, high = self._offset[0] - drift, self._offset[1] + drift
        least, most = now - after - CLOCK_SECONDS, now - before + CLOCK_SECONDS
        stepped = max(low, least) > min(high, most)
        self._offset = (least, most) if stepped else (max(low, least), min(high, most))
        self._read_at = after
        if stepped:
            self.reserve_from = now + MOST_AHEAD_SECONDS

    def at(self, moment: float) -> float:
        """What it says at a moment of ours, about."""
        return moment + sum(self._offset) / 2

    def latest(self, moment: float) -> float:
        """The latest moment of ours at which it can say this."""
        return moment - self._offset[0]

    def earliest(self, moment: float) -> float:
        """The earliest."""
        return moment - self._offset[1]


@dataclass(frozen=True, slots=True)
class Granted:
    """The answer to one wish for room."""

    slots: Sequence[Slot]
    #: When there is room again, in monotonic seconds: ask no earlier than AHEAD_SECONDS before.
    free_at: float
    period: Period
    #: By scope: the caps that are used up, for how many seconds, and which it is ("the limit of 1000 emails a day").
    full: Mapping[str, tuple[float, str]] = field(default_factory=dict)


@dataclass(slots=True)
class Limit:
    """The limits of one scope, and what is reserved under them."""

    scope: str
    emails_per_second: float | None
    emails_per_hour: int | None
    emails_per_day: int | None
    next_at: float
    hour: int
    hour_count: int
    day: int
    day_count: int
    warmup_start: int | None
    warmup_growth: float | None
    warmup_until: int | None
    warmup_day: int | None

    def __post_init__(self) -> None:
        if self.emails_per_second is not None and self.emails_per_second >= NO_RATE:
            self.emails_per_second = None

    @property
    def has_cap(self) -> bool:
        """It has a limit per hour or day, or a warm-up."""
        return (self.emails_per_hour, self.emails_per_day, self.warmup_start) != (None, None, None)

    def begin(self, now: float) -> None:
        """Counts from nothing in a new hour or day. If the clock steps back, the counts stay.

        If the next moment is further ahead than any reservation, the rate was raised or the clock has stepped back: it
        moves to the end of what may be reserved."""
        period = period_at(now)
        if (rate := self.emails_per_second) is not None and self.next_at > now + MOST_AHEAD_SECONDS + 1 / rate:
            self.next_at = now + MOST_AHEAD_SECONDS
        if period.hour > self.hour:
            self.hour, self.hour_count = period.hour, 0
        if period.day > self.day:
            self.day, self.day_count = period.day, 0

    def warmup(self) -> "WarmUp | None":
        """Its warm-up, over or not."""
        if self.warmup_start is None or self.warmup_growth is None or self.warmup_until is None:
            return None
        return WarmUp(self.warmup_start, self.warmup_growth, self.warmup_until)

    def day_cap(self, day: int) -> int | None:
        """Emails on this day, at most, warm-up included; None: as many as there are."""
        warm = self.warmup_cap(day)
        return min((cap for cap in (self.emails_per_day, warm) if cap is not None), default=None)

    def warmup_cap(self, day: int) -> int | None:
        """Emails on this day of the warm-up; None: there is none, or it is over."""
        if (warmup := self.warmup()) is None:
            return None
        days = max(0, day - self.warmup_day) if self.warmup_day is not None else 0
        steps = math.log(max(warmup.until / warmup.start, 1.0)) / math.log(warmup.growth_per_day)
        return None if days >= steps else math.floor(warmup.start * warmup.growth_per_day**days)

    def full(self, now: float) -> tuple[float, str] | None:
        """The seconds until the cap that is used up begins again, and which it is; None: there is room."""
        period = period_at(now)
        if self.day >= period.day and (cap := self.day_cap(period.day)) is not None and self.day_count >= cap:
            warm = cap == self.warmup_cap(period.day)
            words = "the warm-up's" if warm else "the limit of"
            return (period.day + 1) * DAY_SECONDS - now, f"{words} {cap} emails a day"
        cap = self.emails_per_hour
        if self.hour >= period.hour and cap is not None and self.hour_count >= cap:
            return (period.hour + 1) * HOUR_SECONDS - now, f"the limit of {cap} emails an hour"
        return None

    def emails_until(self, now: float, until: float) -> float:
        """Emails that may begin from now until then, at most; infinite: as many as there are."""
        if self.emails_per_second is None and not self.has_cap:
            return math.inf
        emails, first = 0.0, period_at(now)
        for day in range(first.day, min(period_at(until).day, first.day + MOST_DAYS) + 1):
            begins, ends = max(now, day * DAY_SECONDS), min(until, (day + 1) * DAY_SECONDS)
            cap, hours = self.day_cap(day), math.ceil(ends / HOUR_SECONDS) - begins // HOUR_SECONDS
            emails += min(
                math.inf if cap is None else cap - (self.day_count if day == self.day else 0),
                math.inf if self.emails_per_hour is None else self.emails_per_hour * hours,
                math.inf if self.emails_per_second is None else self.emails_per_second * (ends - begins),
            )
        return emails

    def room(self, day: int) -> float:
        """Emails left in this hour and day."""
        caps = ((self.emails_per_hour, self.hour_count), (self.day_cap(day), self.day_count))
        return min((cap - count for cap, count in caps if cap is not None), default=math.inf)


def campaign_scope(campaign_id: UUID) -> str:
    return f"campaign:{campaign_id}"


def project_scope(project_id: UUID) -> str:
    return f"project:{project_id}"


def relay_scope(name: str) -> str:
    return f"relay:{name}"


def provider_scope(relay: str, provider: str) -> str:
    return f"provider:{relay}:{provider}"[:LONGEST_SCOPE]


def period_at(now: float) -> Period:
    return Period(int(now // HOUR_SECONDS), int(now // DAY_SECONDS))


async def put(connection: AsyncConnection, scope: str, emails_per_second: float | None) -> None:
    """Creates or changes a limit per second, or removes it (None)."""
    if emails_per_second is None:
        await remove(connection, scope)
        return
    values = {"scope": scope, "emails_per_second": emails_per_second, "free_at": 0.0}
    await rows.upsert(connection, RateLimit, values, key=("scope",), changes=("emails_per_second",))


@dataclass(frozen=True, slots=True)
class WarmUp:
    """A cap per day that grows: `start` emails on the first day, then `growth_per_day` times as many as on the day
    before, until `until` emails a day."""

    start: int
    growth_per_day: float
    until: int


async def put_all(
    connection: AsyncConnection,
    scope: str,
    *,
    emails_per_second: float | None = None,
    emails_per_hour: int | None = None,
    emails_per_day: int | None = None,
    warmup: WarmUp | None = None,
) -> None:
    """Creates or replaces all limits of a scope. What is counted stays; so does the first day of the same warm-up."""
    old = (await read(connection, [scope])).get(scope)
    day = period_at(await clock(connection)).day
    values: dict[str, Any] = {
        "emails_per_second": emails_per_second or NO_RATE,
        "emails_per_hour": emails_per_hour,
        "emails_per_day": emails_per_day,
        "warmup_start": warmup and warmup.start,
        "warmup_growth": warmup and warmup.growth_per_day,
        "warmup_until": warmup and warmup.until,
        "warmup_day": None if warmup is None else old.warmup_day if old and old.warmup() == warmup else day,
    }
    new = {"scope": scope, "free_at": 0.0, **values}
    await rows.upsert(connection, RateLimit, new, key=("scope",), changes=tuple(values))


async def remove(connection: AsyncConnection, scope: str) -> bool:
    """Removes all limits of a scope. False: it has none."""
    return (await connection.execute(delete(RateLimit).where(col(RateLimit.scope) == scope))).rowcount > 0


async def add_missing(connection: AsyncConnection, scope: str, emails_per_second: float) -> None:
    """Creates a limit per second unless the scope has one."""
    new = {"scope": scope, "emails_per_second": emails_per_second, "free_at": db_now()}
    await connection.execute(rows.insert_missing(connection, RateLimit).values(**new))


async def read_relays_and(connection: AsyncConnection, scope: str) -> dict[str, Limit]:
    """The limits of all relays and of this scope."""
    return _limits(await connection.execute(_OF_RELAYS_AND, {"scope": scope}))


async def read(connection: AsyncConnection, scopes: Collection[str]) -> dict[str, Limit]:
    """The limits of these scopes; a scope without one is left out."""
    if not scopes:
        return {}
    return _limits(await connection.execute(_OF_SCOPES[connection.dialect.name], {"scopes": list(scopes)}))


async def read_alone(ledger: Ledger, scopes: Collection[str]) -> dict[str, Limit]:
    """`read`, for those who ask several times a second."""
    return _limits(await ledger.read_alone(_OF_SCOPES[ledger.dialect], {"scopes": list(scopes)})) if scopes else {}


def _limits(found: Iterable[Row[Any]]) -> dict[str, Limit]:
    return {row.scope: Limit(**row._mapping) for row in found}


async def reserve(
    connection: AsyncConnection,
    wishes: Mapping[Scopes, int],
    unused: Mapping[tuple[str, Period], int],
    database_clock: DatabaseClock,
    commit_seconds: float,
) -> dict[Scopes, Granted]:
    """Reserves room for up to this many emails under each group of scopes, all of a group from one moment.

    No slot begins within `commit_seconds`, the time until the caller can use it.
    `unused`: emails by scope and period for which room was reserved and that did not begin; they count no longer.
    The slots are valid once the transaction is committed. Locks the limits in the order of their scopes."""
    scopes = {scope for group in wishes for scope in group} | {scope for scope, _ in unused}
    found = await connection.execute(
        select(*_COLUMNS).where(col(RateLimit.scope).in_(scopes)).order_by(col(RateLimit.scope)).with_for_update()
    )
    limits = {row.scope: Limit(**row._mapping) for row in found}
    now = await database_clock.read(connection)
    period = period_at(now)
    for limit in limits.values():
        limit.begin(now)
        limit.next_at = max(limit.next_at, database_clock.reserve_from)
    for (scope, when), emails in unused.items():
        if (returned := limits.get(scope)) is not None:
            returned.hour_count -= emails if when.hour == returned.hour else 0
            returned.day_count -= emails if when.day == returned.day else 0
    granted = {}
    for group, emails in wishes.items():
        slots, free_at, full = take_room(
            [limits[scope] for scope in group if scope in limits], emails, now, min(commit_seconds, AHEAD_SECONDS / 2)
        )
        granted[group] = Granted(
            [Slot(database_clock.latest(begins), database_clock.earliest(ends)) for begins, ends in slots],
            database_clock.latest(free_at),
            period,
            full,
        )
    if limits:
        await connection.execute(_RESERVED, [_reserved(limit) for limit in limits.values()])
    return granted


def take_room(
    limits: Sequence[Limit], emails: int, now: float, commit_seconds: float = 0.0
) -> tuple[Sequence[tuple[float, float]], float, Mapping[str, tuple[float, str]]]:
    """Takes room for up to `emails`: the time in which each may begin, when there is room again, and what is full."""
    full = {limit.scope: when for limit in limits if (when := limit.full(now)) is not None}
    if full:
        return (), now + max(seconds for seconds, _ in full.values()), full
    rates = [limit.emails_per_second for limit in limits if limit.emails_per_second is not None]
    starts = max((_next(limit, now) for limit in limits), default=now)
    starts = max(starts, now + commit_seconds)
    room = min((limit.room(period_at(now).day) for limit in limits), default=math.inf)
    slots: list[tuple[float, float]] = []
    while starts <= now + AHEAD_SECONDS and len(slots) < min(emails, room):
        number = len(slots)
        begins = starts + number / min(rates, default=math.inf)
        ends = min((starts + number / rate + tolerance(rate) for rate in rates), default=begins + 1.0)
        if number and (begins > starts + BLOCK_SECONDS or ends < begins + LEAST_VALID_SECONDS):
            break
        slots.append((begins, ends))
    if slots:
        for limit in limits:
            limit.hour_count += len(slots)
            limit.day_count += len(slots)
            if limit.emails_per_second is not None:
                limit.next_at = starts + len(slots) / limit.emails_per_second
    return slots, max((_next(limit, now) for limit in limits), default=now), {}


def _next(limit: Limit, now: float) -> float:
    """When the next email may begin under this limit."""
    return now if limit.emails_per_second is None else max(now, limit.next_at)


def tolerance(rate: float) -> float:
    """Seconds by which an email may begin later than its even place without more than BURST_SHARE too many in any
    second: the places in 1 + tolerance seconds are at most the whole number of emails allowed in one."""
    allowed = math.floor((1 + BURST_SHARE) * rate + 1 + 1e-9)
    seconds = min(allowed / rate - 1, 1.0)
    return seconds - min(MARGIN_SECONDS, seconds / 2)


_COLUMNS = (
    col(RateLimit.scope),
    col(RateLimit.emails_per_second),
    col(RateLimit.emails_per_hour),
    col(RateLimit.emails_per_day),
    col(RateLimit.next_at),
    col(RateLimit.hour),
    col(RateLimit.hour_count),
    col(RateLimit.day),
    col(RateLimit.day_count),
    col(RateLimit.warmup_start),
    col(RateLimit.warmup_growth),
    col(RateLimit.warmup_until),
    col(RateLimit.warmup_day),
)

_OF_RELAYS_AND = select(*_COLUMNS).where(
    (col(RateLimit.scope) == bindparam("scope")) | col(RateLimit.scope).startswith("relay:")
)
_OF_SCOPES = rows.among(col(RateLimit.scope), String, "scopes", select(*_COLUMNS).where)

_COUNTED = ("next_at", "hour", "hour_count", "day", "day_count")
_RESERVED = (
    update(RateLimit)
    .where(col(RateLimit.scope) == bindparam("of_scope"))
    .values({name: bindparam(f"new_{name}") for name in _COUNTED})
)


def _reserved(limit: Limit) -> dict[str, Any]:
    return {"of_scope": limit.scope, **{f"new_{name}": getattr(limit, name) for name in _COUNTED}}

"""The limits that this process's emails are under, and the room in the ledger for each email that begins.

An email that is under a limit waits before its first body byte until it has a slot (`shared.ledger.rate_limits`). Few
emails wait at a time, because `not_before` spaces the emails that are taken. A slot that no email uses in time is lost:
after a stall the schedule is moved, and nothing is caught up.
"""

import asyncio
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import NamedTuple

from services.sender.db.retry import RETRY_SECONDS, until_available
from services.sender.held_batch import HeldBatch
from shared import logs
from shared.ledger import rate_limits
from shared.ledger.database import Ledger, in_a_line, is_unavailable
from shared.ledger.rate_limits import AHEAD_SECONDS, Full, Granted, Limit, Period, Scopes, Slot, relay_scope
from shared.relays.config import RelayConfig, RelayLimits

MOST_WAITING = 2
"""Emails of a lane that wait for a slot while further ones are taken. A few make sure that no slot is lost."""

PATIENCE_SECONDS = 5.0
"""An email that cannot get a slot within this time goes back to its batch, and its connection is free."""

EARLY_SECONDS = 2.0
"""An email is taken this long before there may be room for it, at most."""

PACE_FACTOR = 1.2
"""Emails are taken a little faster than the limit, so that one waits for each slot."""

CATCH_UP_SECONDS = 0.05
"""The taking of emails, which the slots bound, may be late by this much and catch up."""

RECENT_SECONDS = 0.25
"""As many emails as began in this time will soon need slots."""

KEPT_SECONDS = 10.0
"""A lane without emails is kept this long."""

log = logs.get()


class Waiter(NamedTuple):
    """An email that waits for a slot."""

    may_begin: Callable[[], bool]
    answer: asyncio.Future[bool]
    since: float


class Lane:
    """Emails under the same limits: their slots, and those that wait for one. Moments are monotonic seconds."""

    def __init__(self, scopes: Scopes, now: float) -> None:
        self.scopes = scopes
        #: The emails that wait, a cancelled one included until it is found.
        self.waiters: deque[Waiter] = deque()
        #: In the order of time.
        self.slots: deque[tuple[Slot, Period]] = deque()
        #: When the next email may be taken.
        self.take_at = now
        #: When the ledger may have room again.
        self.ask_at = now
        self.used_at = now
        self.timer: asyncio.TimerHandle | None = None
        self._begun: deque[float] = deque()

    def wanted(self, now: float) -> int:
        """Slots to ask for: for the emails that wait, and for as many as began in RECENT_SECONDS."""
        while self._begun and self._begun[0] < now - RECENT_SECONDS:
            self._begun.popleft()
        soon = len(self.waiters) + len(self._begun)
        return soon - len(self.slots) if len(self.slots) <= soon // 2 else 0

    def use_slot(self, now: float) -> bool:
        """Uses a slot for an email that begins now, if one is valid."""
        if not self.slots or self.slots[0][0].begins > now:
            return False
        self.slots.popleft()
        self._begun.append(now)
        self.used_at = now
        return True

    def lose_slots(self, now: float) -> Counter[tuple[str, Period]]:
        """Loses the slots that were not used in time; returns them by scope and period."""
        lost: Counter[tuple[str, Period]] = Counter()
        while self.slots and self.slots[0][0].ends <= now:
            _, period = self.slots.popleft()
            lost.update((scope, period) for scope in self.scopes)
        return lost

    def is_unused(self, now: float) -> bool:
        return not self.waiters and not self.slots and now - self.used_at > KEPT_SECONDS


class Limits:
    """The lanes of one process."""

    def __init__(
        self,
        ledger: Ledger,
        wake_feed: Callable[[], None],
        relays: Iterable[RelayConfig] = (),
        hold_relay: Callable[[str, float, str], None] = lambda _relay, _seconds, _why: None,
    ) -> None:
        self._ledger = ledger
        self._wake_feed = wake_feed
        #: By scope.
        self._relays = {relay_scope(relay.name): relay for relay in relays}
        #: Lets a relay rest for some seconds, for this reason.
        self._hold_relay = hold_relay
        #: The limits there are, by scope, as last read.
        self._known: dict[str, Limit] = {}
        #: The caps that are used up, by scope.
        self._full: dict[str, Full] = {}
        self._lanes: dict[Scopes, Lane] = {}
        self._asked = asyncio.Event()
        #: Slots that were not used, to be told to the ledger: they count no longer under a cap.
        self._unused: Counter[tuple[str, Period]] = Counter()

    # What is known

    async def set_by_urls(self) -> None:
        """Writes the limits that the URLs of relays set."""
        for scope, relay in self._relays.items():
            if relay.limits is not None:
                await until_available(partial(self._put, scope, relay.limits))

    async def _put(self, scope: str, limits: RelayLimits) -> None:
        async with self._ledger.write() as connection:
            await rate_limits.put_all(
                connection,
                scope,
                emails_per_second=limits.emails_per_second,
                emails_per_hour=limits.emails_per_hour,
                emails_per_day=limits.emails_per_day,
                warmup=rate_limits.WarmUp(*limits.warmup) if limits.warmup is not None else None,
            )

    async def refresh(self, held: Iterable[HeldBatch]) -> None:
        """Reads the limits of these batches and of the relays; forgets those of batches let go meanwhile."""
        await self._learn({*self._relays, *(scope for one in held for scope in one.scopes)})
        for scope in self._known.keys() - {*self._relays, *(scope for one in held for scope in one.scopes)}:
            del self._known[scope]

    async def learn(self, held: HeldBatch) -> None:
        """Reads the limits of a batch that was just claimed, so that its first email is under them."""
        await self._learn({*self._relays, *held.scopes})

    async def _learn(self, scopes: Collection[str]) -> None:
        async with self._ledger.read() as connection:
            found = await rate_limits.read(connection, scopes)
        now = time.monotonic()
        for scope in scopes:
            old, new = self._known.pop(scope, None), found.get(scope)
            if new is not None:
                self._known[scope] = new
            if _terms(old) != _terms(new):
                if self._full.pop(scope, None) is not None and scope in self._relays:
                    self._hold_relay(self._relays[scope].name, 0.0, "its limit was changed")
                for lane in self._lanes.values():
                    if scope in lane.scopes:
                        lane.ask_at = lane.take_at = now
                        self._serve(lane)
        for unused in [key for key, lane in self._lanes.items() if lane.is_unused(now)]:
            del self._lanes[unused]

    def full(self, scopes: Collection[str]) -> Full | None:
        """The cap of these scopes that is used up for the longest; None: there is room."""
        now = time.monotonic()
        found = [full for scope in scopes if (full := self._full.get(scope)) is not None and full.until > now]
        return max(found, default=None)

    # Emails

    def not_before(self, held: HeldBatch, relay: str, now: float) -> float:
        """When an email of this batch may be taken for this relay; infinite: the feed is woken when it may."""
        lane = self._lane(held, relay, now)
        if lane is None:
            return 0.0
        if len(lane.waiters) >= MOST_WAITING:
            return math.inf
        return max(lane.take_at, lane.ask_at - EARLY_SECONDS)

    def taken(self, held: HeldBatch, relay: str, now: float) -> None:
        """An email was taken."""
        lane = self._lane(held, relay, now)
        if lane is not None and (rate := self._rate(lane)) is not None:
            lane.take_at = max(lane.take_at, now - CATCH_UP_SECONDS) + 1 / (PACE_FACTOR * rate)

    def are_on(self, held: HeldBatch, relay: str) -> bool:
        """Whether an email of this batch is under a limit at this relay."""
        return bool(self._scopes(held, relay))

    def begin(self, held: HeldBatch, relay: str, may_begin: Callable[[], bool]) -> bool | asyncio.Future[bool]:
        """Whether an email may begin its body now; a future if it waits for a slot, at whose end `may_begin` decides.

        False: there is no room soon, and the email goes back to its batch."""
        now = time.monotonic()
        lane = self._lane(held, relay, now)
        if lane is None:
            return True
        self._unused.update(lane.lose_slots(now))
        if not lane.waiters and lane.use_slot(now):
            self._serve(lane)
            return True
        if self.full(lane.scopes) is not None or lane.ask_at > now + PATIENCE_SECONDS:
            return False
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        lane.waiters.append(Waiter(may_begin, answer, now))
        self._serve(lane)
        return answer

    # Slots

    async def run(self) -> None:
        """Reserves room in the ledger whenever a lane needs some."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            now = time.monotonic()
            wishes = {
                scopes: wanted
                for scopes, lane in self._lanes.items()
                if lane.ask_at <= now and (wanted := lane.wanted(now))
            }
            if not wishes:
                continue
            unused, self._unused = self._unused, Counter()
            try:
                async with self._ledger.write() as connection:
                    granted = await rate_limits.reserve(connection, wishes, unused)
            except Exception as error:
                if not is_unavailable(error):
                    raise
                log.warning("database.unreachable", error=in_a_line(error))
                await asyncio.sleep(RETRY_SECONDS)
                self._asked.set()
            else:
                self._take(granted)

    def _take(self, granted: dict[Scopes, Granted]) -> None:
        for scopes, grant in granted.items():
            lane = self._lanes[scopes]
            lane.slots.extend((slot, grant.period) for slot in grant.slots)
            lane.ask_at = grant.free_at if grant.full else grant.free_at - AHEAD_SECONDS
            self._note_full(grant.full)
            del self._lanes[scopes]  # to the end: the lanes take turns in being first
            self._lanes[scopes] = lane
            self._serve(lane)

    def _note_full(self, full: Mapping[str, Full]) -> None:
        now = time.monotonic()
        for scope, cap in full.items():
            if self._full.get(scope) is None and scope in self._relays:
                self._hold_relay(self._relays[scope].name, cap.until - now, cap.why)
        self._full.update(full)
        self._full = {scope: cap for scope, cap in self._full.items() if cap.until > now}

    def _serve(self, lane: Lane) -> None:
        """Gives slots to the emails that wait, and asks for more in time."""
        now = time.monotonic()
        before = len(lane.waiters)
        self._unused.update(lane.lose_slots(now))
        is_full = self.full(lane.scopes) is not None
        while lane.waiters:
            first = lane.waiters[0]
            if first.answer.done():
                lane.waiters.popleft()
            elif not first.may_begin() or is_full or now - first.since > PATIENCE_SECONDS:
                lane.waiters.popleft().answer.set_result(False)
            elif lane.use_slot(now):
                lane.waiters.popleft().answer.set_result(True)
            else:
                break
        again = []
        if lane.waiters:
            again = [lane.waiters[0].since + PATIENCE_SECONDS, *(slot.begins for slot, _ in list(lane.slots)[:1])]
        if lane.wanted(now) and not is_full:
            if lane.ask_at <= now:
                self._asked.set()
            else:
                again.append(lane.ask_at)
        if lane.timer is not None:
            lane.timer.cancel()
            lane.timer = None
        if again:
            lane.timer = asyncio.get_running_loop().call_later(max(0.001, min(again) - now), self._serve, lane)
        if len(lane.waiters) < min(before, MOST_WAITING):
            self._wake_feed()

    def _scopes(self, held: HeldBatch, relay: str) -> Scopes:
        return tuple(scope for scope in (*held.scopes, relay_scope(relay)) if scope in self._known)

    def _lane(self, held: HeldBatch, relay: str, now: float) -> Lane | None:
        """The lane of a batch at a relay; None: no limit applies."""
        if not self._known or not (scopes := self._scopes(held, relay)):
            return None
        if (lane := self._lanes.get(scopes)) is None:
            lane = self._lanes[scopes] = Lane(scopes, now)
        return lane

    def _rate(self, lane: Lane) -> float | None:
        rates = (self._known[scope].emails_per_second for scope in lane.scopes if scope in self._known)
        return min((rate for rate in rates if rate is not None), default=None)


def _terms(limit: Limit | None) -> object:
    """What a person set."""
    if limit is None:
        return None
    return (
        *(limit.emails_per_second, limit.emails_per_hour, limit.emails_per_day),
        *(limit.warmup_start, limit.warmup_growth, limit.warmup_until, limit.warmup_day),
    )

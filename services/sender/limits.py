"""The limits that this process's emails are under, and a slot in the ledger for each email that begins.

An email is taken so that its envelope is accepted about when its slot begins (`shared.ledger.rate_limits`). If it is
early, it waits. It asks again at the moment of the write, and begins only if its slot is still valid. A slot that is
not used in time is lost: after a stall the schedule is moved, and nothing is caught up.
"""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Final, NamedTuple
from weakref import WeakValueDictionary

from services.sender.db.retry import RETRY_SECONDS, until_available
from services.sender.held_batch import Email, HeldBatch
from services.sender.lane import Lane, Passage, Reserved, Waiter
from services.sender.metrics import SenderMetrics
from shared import logs
from shared.ledger import rate_limits
from shared.ledger.database import Ledger, in_a_line, is_unavailable
from shared.ledger.rate_limits import (
    AHEAD_SECONDS,
    DatabaseClock,
    Granted,
    Limit,
    Period,
    Scopes,
    provider_scope,
    relay_scope,
)
from shared.providers import Providers
from shared.relays.config import RelayConfig, RelayLimits

MOST_WAITING = 2
"""Emails of a lane that may wait for a slot before no further one is taken."""

PATIENCE_SECONDS = 5.0
"""An email that cannot get a slot within this time goes back to its batch, and its connection is free."""

MOST_LEAD_SECONDS = 2.0
"""An email is taken at most this long before its slot begins."""

FRESH_SECONDS = 1.0
"""Limits that were read this recently are not read again for another batch of their campaign."""

GAP_SECONDS = 0.02
"""From one reservation to the next, so that many lanes share one transaction."""

log = logs.get()


class Full(NamedTuple):
    """A cap is used up."""

    until: float  # monotonic seconds
    why: str  # "the limit of 1000 emails a day is used up"


class Limits:
    """The lanes of one process."""

    def __init__(
        self,
        ledger: Ledger,
        metrics: SenderMetrics,
        wake_feed: Callable[[], None],
        relays: Iterable[RelayConfig] = (),
        providers: Providers | None = None,
        hold_relay: Callable[[str, float, str], None] = lambda _relay, _seconds, _why: None,
    ) -> None:
        self._ledger = ledger
        self._metrics = metrics
        self._wake_feed = wake_feed
        #: By scope.
        self._relays = {relay_scope(relay.name): relay for relay in relays}
        self.providers: Final = providers or Providers()
        #: The emails per second of each provider over each relay, by scope.
        self._of_providers = {
            provider_scope(relay.name, provider.name): provider.emails_per_second
            for relay in self._relays.values()
            for provider in self.providers.with_rates
        }
        #: Lets a relay rest for some seconds, for this reason.
        self._hold_relay = hold_relay
        #: The limits there are, by scope, as last read.
        self._known: dict[str, Limit] = {}
        #: When each scope was last read, in monotonic seconds.
        self._read_at: dict[str, float] = {}
        #: Held while the limits of a campaign are read.
        self._reading: WeakValueDictionary[Scopes, asyncio.Lock] = WeakValueDictionary()
        #: The caps that are used up, by scope.
        self._full: dict[str, Full] = {}
        self._lanes: dict[Scopes, Lane] = {}
        self._asked = asyncio.Event()
        #: Slots that were not used, to be told to the ledger: they count no longer under a cap.
        self._unused: Counter[tuple[str, Period]] = Counter()
        self._clock = DatabaseClock()
        #: Seconds that a reservation usually takes.
        self._commit_seconds = 0.0
        #: By relay: seconds from taking an email to the acceptance of its envelope.
        self._leads: dict[str, float] = {}

    # What is known

    @property
    def relay_scopes(self) -> Collection[str]:
        """Of the limits of this process's relays."""
        return self._relays.keys()

    async def set_by_urls(self) -> None:
        """Writes the limits that the URLs of relays set."""
        for scope, relay in self._relays.items():
            if relay.limits is not None:
                await until_available(partial(self._put, scope, relay.limits))

    async def _put_providers(self) -> None:
        async with self._ledger.write() as connection:
            for scope, rate in sorted(self._of_providers.items()):
                await rate_limits.put(connection, scope, rate)

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
        """Reads the limits of these batches and of the relays, forgets those of batches let go meanwhile, and returns
        slots that were not used."""
        used = {*self._relays, *(scope for one in held for scope in one.scopes)}
        await self._learn(used)
        for scope in self._read_at.keys() - used:
            del self._read_at[scope]
            self._known.pop(scope, None)
            self._full.pop(scope, None)
        if self._unused:
            self._asked.set()

    async def learn(self, of_campaign: Scopes) -> None:
        """Reads the limits of a batch that is claimed, unless they are known, so that its first email is under them."""
        scopes = {*self._relays, *of_campaign}
        # The first batches of a campaign are claimed at the same time.
        async with self._reading.setdefault(of_campaign, asyncio.Lock()):
            oldest = min(self._read_at.get(scope, -math.inf) for scope in scopes)
            if time.monotonic() - oldest > FRESH_SECONDS:
                await self._learn(scopes)

    async def _learn(self, scopes: Collection[str]) -> None:
        before = time.monotonic()
        found = await rate_limits.read_alone(self._ledger, scopes)
        if any(limit.has_cap for limit in found.values()):
            async with self._ledger.read() as connection:
                await self._clock.read(connection)
        self._read_at |= dict.fromkeys(scopes, before)
        now = time.monotonic()
        for scope in scopes:
            old, new = self._known.pop(scope, None), found.get(scope)
            if new is not None:
                self._known[scope] = new
            was_full = scope in self._full
            self._note_full(scope, new.full(self._clock.at(now)) if new is not None and new.has_cap else None)
            if _terms(old) != _terms(new) or (was_full and scope not in self._full):
                for lane in self._lanes.values():
                    if scope in lane.scopes:
                        lane.ask_at = now
                        self._serve(lane)
                self._wake_feed()
        for idle in [key for key, lane in self._lanes.items() if lane.is_idle(now)]:
            del self._lanes[idle]

    def have_rate(self, scopes: Scopes) -> bool:
        """Whether one of these limits is per second."""
        return any(scope in self._known and self._known[scope].emails_per_second is not None for scope in scopes)

    def full(self, scopes: Collection[str]) -> Full | None:
        """The cap of these scopes that is used up for the longest; None: there is room."""
        if not self._full:
            return None
        now = time.monotonic()
        found = [full for scope in scopes if (full := self._full.get(scope)) is not None and full.until > now]
        return max(found, default=None)

    # Emails

    def not_before(self, held: HeldBatch, relay: str, now: float, provider: str | None = None) -> float:
        """When an email of this batch may be taken for this relay; infinite: the feed is woken when it may.

        `provider`: the recipient's, if it has a limit."""
        lane = self._lane(held, relay, now, provider)
        if lane is None:
            return 0.0
        if len(lane.waiters) >= MOST_WAITING or self.full(lane.scopes) is not None:
            return math.inf
        self._lose(lane.lose_slots(now))
        lane.hungry = True
        self._ask_if_wanted(lane, now)
        lead = self._leads.get(relay, 0.0)
        at = lane.take_at(lead, self._rate(lane) if lead > AHEAD_SECONDS else None)
        return math.inf if at is None else at

    def taken(self, email: Email, relay: str, now: float) -> None:
        """An email was taken."""
        lane = self._lane(email.held, relay, now, email.provider)
        if lane is not None:
            lane.coming += 1
            email.passage = Passage(lane, taken_at=now)

    def begin(self, email: Email, relay: str, may_begin: Callable[[], bool]) -> bool | asyncio.Future[bool]:
        """Whether an email may begin its body now. Ask immediately before the write.

        A future if it waits for a slot, at whose beginning `may_begin` decides; after a yes, ask again.
        False: there is no room soon, and the email goes back to its batch."""
        now = time.monotonic()
        lane = self._lane(email.held, relay, now, email.provider)
        passage = self._arrive(email, lane, relay, now)
        if lane is None or passage is None:
            return True
        self._lose(lane.lose_slots(now))
        if passage.reserved is None and not lane.waiters:
            passage.reserved = lane.begun_slot(now)
        if passage.reserved is not None:
            reserved, passage.reserved = passage.reserved, None
            if now < reserved.slot.ends:
                lane.note_begun(now)
                self._metrics.slots_used.inc()
                self._ask_if_wanted(lane, now)
                return True
            self._lose([reserved])
        if self.full(lane.scopes) is not None or lane.ask_at > now + PATIENCE_SECONDS:
            return False
        waiter = Waiter(passage, may_begin, asyncio.get_running_loop().create_future())
        if passage.waits_since is None:
            passage.waits_since = now
            lane.waiters.append(waiter)
        else:
            lane.waiters.appendleft(waiter)
        self._serve(lane)
        return waiter.answer

    def ended(self, email: Email) -> None:
        """An email has its outcome, or goes back to its batch."""
        passage = email.passage
        if passage is not None:
            passage.leave()
            if passage.reserved is not None:
                self._lose([passage.reserved])
            if passage.waits_since is not None:
                self._serve(passage.lane)  # it may have been waiting

    def _arrive(self, email: Email, lane: Lane | None, relay: str, now: float) -> Passage | None:
        """The relay has accepted the envelope: learns how long that takes. None: no limit applies."""
        passage = email.passage
        if passage is not None and passage.taken_at is not None:
            lead = _learned(self._leads.get(relay, 0.0), now - passage.taken_at)
            self._leads[relay] = min(lead, MOST_LEAD_SECONDS)
            passage.leave()
        if passage is not None and passage.lane is not lane and passage.reserved is not None:
            self._lose([passage.reserved])
        if lane is None:
            email.passage = None
        elif passage is None or passage.lane is not lane:
            email.passage = Passage(lane)
        return email.passage

    # Slots

    async def run(self) -> None:
        """Reserves room in the ledger whenever a lane needs some, and returns what was not used under a cap. Writes the
        limits of providers first, so that no email begins without them."""
        await until_available(self._put_providers)
        while True:
            await self._asked.wait()
            self._asked.clear()
            now = time.monotonic()
            wishes = {
                scopes: wanted
                for scopes, lane in self._lanes.items()
                if lane.ask_at <= now and self.full(scopes) is None and (wanted := lane.wanted(now))
            }
            if not wishes and not self._unused:
                continue
            # If the outcome of the transaction stays unknown, the slots count: a cap is never exceeded.
            returned, self._unused = self._unused, Counter()
            try:
                async with self._ledger.write() as connection:
                    granted = await rate_limits.reserve(connection, wishes, returned, self._clock, self._commit_seconds)
                self._commit_seconds = _learned(self._commit_seconds, time.monotonic() - now)
                if returned and self._full:
                    await self._learn(set(self._full))
            except Exception as error:
                if not is_unavailable(error):
                    raise
                log.warning("database.unreachable", error=in_a_line(error))
                await asyncio.sleep(RETRY_SECONDS)
                self._asked.set()
            else:
                self._take(granted)
            await asyncio.sleep(GAP_SECONDS)

    def _take(self, granted: dict[Scopes, Granted]) -> None:
        for scopes, grant in granted.items():
            lane = self._lanes.pop(scopes)
            self._lanes[scopes] = lane  # at the end: the lanes take turns in being first
            ask_at = grant.free_at if grant.full else grant.free_at - AHEAD_SECONDS
            lane.grant(grant.slots, grant.period, grant.free_at, ask_at)
            for scope, full in grant.full.items():
                self._note_full(scope, full)
            self._serve(lane)
        if granted:
            self._wake_feed()

    def _note_full(self, scope: str, full: tuple[float, str] | None) -> None:
        """A cap is used up for some seconds, or has room (None). A relay rests meanwhile."""
        now = time.monotonic()
        before = self._full.pop(scope, None)
        if full is not None:
            self._full[scope] = Full(now + full[0], f"{full[1]} is used up")
        self._metrics.limits_used_up.set(len(self._full))
        relay = self._relays.get(scope)
        if relay is not None and (before is None) != (full is None):
            cap = self._full.get(scope)
            self._hold_relay(relay.name, full[0] if full else 0.0, cap.why if cap else "its limit has room again")

    def _serve(self, lane: Lane) -> None:
        """Gives slots to the emails that wait, asks for more in time, and returns what is not used."""
        now = time.monotonic()
        waited = len(lane.waiters)
        self._lose(lane.lose_slots(now))
        is_full = self.full(lane.scopes) is not None
        while lane.waiters:
            passage, may_begin, answer = lane.waiters[0]
            since = passage.waits_since or now
            if answer.done():
                lane.waiters.popleft()
            elif not may_begin() or is_full or now - since > PATIENCE_SECONDS:
                lane.waiters.popleft()
                answer.set_result(False)
            elif (reserved := lane.begun_slot(now)) is not None:
                lane.waiters.popleft()
                passage.reserved = reserved
                answer.set_result(True)
            else:
                self._arm(lane, since + PATIENCE_SECONDS)
                break
        if lane.slots:
            self._arm(lane, lane.slots[0].slot.begins if lane.waiters else lane.slots[0].slot.ends)
        self._ask_if_wanted(lane, now)
        if len(lane.waiters) < waited:
            self._wake_feed()

    def _ask_if_wanted(self, lane: Lane, now: float) -> None:
        if lane.wanted(now) and self.full(lane.scopes) is None:
            if lane.ask_at <= now:
                self._asked.set()
            else:
                self._arm(lane, lane.ask_at)

    def _lose(self, lost: Iterable[Reserved]) -> None:
        """Slots that no email has used count no longer under a cap, once the ledger knows."""
        for reserved in lost:
            self._metrics.slots_lost.inc()
            for scope in reserved.scopes:
                if scope in self._of_providers:
                    continue  # has no cap
                if (limit := self._known.get(scope)) is None or limit.has_cap:
                    self._unused[scope, reserved.period] += 1
                    self._asked.set()

    def _arm(self, lane: Lane, when: float) -> None:
        """Serves the lane at this moment, or earlier."""
        now = time.monotonic()
        if lane.timer is not None:
            if lane.timer_at <= when:
                return
            lane.timer.cancel()
        lane.timer_at = max(when, now + 0.001)
        lane.timer = asyncio.get_running_loop().call_later(lane.timer_at - now, self._on_timer, lane)

    def _on_timer(self, lane: Lane) -> None:
        lane.timer = None
        self._serve(lane)

    def _scopes(self, held: HeldBatch, relay: str, provider: str | None) -> Scopes:
        scopes = tuple(scope for scope in (*held.scopes, relay_scope(relay)) if scope in self._known)
        if provider is not None and (of_provider := provider_scope(relay, provider)) in self._of_providers:
            return (*scopes, of_provider)
        return scopes

    def _lane(self, held: HeldBatch, relay: str, now: float, provider: str | None) -> Lane | None:
        """The lane of a batch at a relay, and of a provider with a limit; None: no limit applies."""
        if not (self._known or provider) or not (scopes := self._scopes(held, relay, provider)):
            return None
        if (lane := self._lanes.get(scopes)) is None:
            lane = self._lanes[scopes] = Lane(scopes, now)
        return lane

    def _rate(self, lane: Lane) -> float | None:
        rates = [self._known[scope].emails_per_second for scope in lane.scopes if scope in self._known]
        rates += [self._of_providers[scope] for scope in lane.scopes if scope in self._of_providers]
        return min((rate for rate in rates if rate is not None), default=None)


def _learned(usual: float, seen: float) -> float:
    """What is usual after this: rises fast and falls slowly, so that few are later."""
    return usual + (seen - usual) * (0.5 if seen > usual else 0.1)


def _terms(limit: Limit | None) -> object:
    """What a person set."""
    if limit is None:
        return None
    return (
        *(limit.emails_per_second, limit.emails_per_hour, limit.emails_per_day),
        *(limit.warmup_start, limit.warmup_growth, limit.warmup_until, limit.warmup_day),
    )

"""Limits of providers: which emails may start now, and where those wait that may not.

An email to a provider with a limit starts only within this sender's share of what may be in flight there over the relay
(`shared.ledger.provider_shares`) and, if there is a limit per second, when it soon has a slot (`limits.py`). Otherwise
its row waits here, while the others of its batch go on. A batch of which only such rows are left needs no place. Rows
that would wait for long are deferred instead: that spends no attempt, and needs no memory.
"""

import asyncio
import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple
from uuid import UUID

from services.sender.db.retry import RETRY_SECONDS
from services.sender.db.worklist import WorklistRow
from services.sender.held_batch import HeldBatch
from services.sender.held_batches import HeldBatches
from services.sender.limits import Limits
from shared import logs
from shared.ledger import provider_shares
from shared.ledger.database import Ledger, in_a_line, is_unavailable
from shared.ledger.provider_shares import Key, Need
from shared.providers import Provider

SETTLE_SECONDS = 1.0
"""How often shares are renewed, raised and given back."""

KEPT_SECONDS = 1.0
"""A share that no email has used or waited for is given back after this time."""

WAIT_SECONDS = 5.0
"""Rows that would wait longer are deferred. More than a deferred row usually takes from its due time back to here, so
that the provider is never idle meanwhile."""

LONGEST_WAIT_SECONDS = 15.0
"""A row that has waited this long is deferred whatever was expected."""

MOST_WAITING = 1000
"""Rows of one campaign that wait for one provider, at most."""

LEAST_WAITING = 4
"""So many wait however slow the provider is, so that it is never idle."""

MOST_WAITING_IN_ALL = 2000
"""Rows of one sender that wait for providers."""

MOST_WAITING_BYTES = 4_000_000
"""Fields of the rows that wait for providers: a recipient may have much data."""

LEAST_DELAY_SECONDS, MOST_DELAY_SECONDS = 2.0, 1800.0
"""A deferred row is tried again after a time between these. Where more rows are deferred than the provider takes in the
longer time, they are laid over the same time once more."""

EARLY = 0.8
"""Deferred rows come back in this share of the time that the provider needs for them. Too early costs another write,
too late leaves the provider idle."""

RECENT_EMAILS = 20
"""The newest emails of a provider, which show how long one takes."""

ASSUMED_SECONDS, LEAST_SECONDS = 0.02, 0.001
"""For one email: until the provider has shown how long it takes, and whatever it shows."""

MOST_SETTLED = 50
"""Shares in one transaction."""

LEASE_SHARE = 2 / 3
"""The share of a lease in which emails may start."""

GIVE_BACK_SECONDS = 2.0
"""For giving shares back when the process stops."""

LONGEST_NAME = 200

log = logs.get()


class Waiting(NamedTuple):
    """A row that waits for its provider."""

    held: HeldBatch
    row: WorklistRow
    since: float  # monotonic seconds


class _Queue:
    """The rows of one campaign that wait for one provider."""

    __slots__ = ("deferred_until", "rows")

    def __init__(self) -> None:
        self.rows: deque[Waiting] = deque()
        #: When the row that was deferred last is tried again, in monotonic seconds.
        self.deferred_until = 0.0


class _Lane:
    """One provider at one relay. Moments are monotonic seconds."""

    __slots__ = (
        "_seconds",
        "in_flight",
        "provider",
        "queues",
        "recorded",
        "settled_at",
        "share",
        "used_at",
        "usual",
        "valid_until",
    )

    def __init__(self, provider: Provider, now: float) -> None:
        self.provider = provider
        #: Emails that this sender may have in flight, until `valid_until`.
        self.share = 0
        self.valid_until = 0.0
        #: Emails that the ledger counts for this sender: its share, or what was in flight beyond it.
        self.recorded = 0
        self.in_flight = 0
        #: An email last started or waited.
        self.used_at = now
        #: The ledger was last asked for a share.
        self.settled_at = 0.0
        #: By campaign, in turn.
        self.queues: OrderedDict[UUID, _Queue] = OrderedDict()
        #: Seconds that an email usually is in flight.
        self.usual = ASSUMED_SECONDS
        self._seconds: deque[float] = deque(maxlen=RECENT_EMAILS)

    @property
    def limit(self) -> int:
        """Emails in flight of all senders."""
        return self.provider.in_flight or 0

    def is_wanted(self, now: float) -> bool:
        """It has emails, or had some lately."""
        return bool(self.in_flight) or self.waits() or now - self.used_at < KEPT_SECONDS

    def has_room(self, now: float) -> bool:
        return self.provider.in_flight is None or (self.in_flight < self.share and now < self.valid_until)

    def most_waiting(self) -> int:
        """Rows of one campaign that may wait: not for long."""
        soon = int(WAIT_SECONDS / self.seconds_per_email / max(1, len(self.queues)))
        return max(LEAST_WAITING, min(MOST_WAITING, soon))

    def waits(self) -> bool:
        return any(queue.rows for queue in self.queues.values())

    def learn(self, seconds: float) -> None:
        """An email was in flight for so long. The median: a few that hang say nothing of the others."""
        self._seconds.append(seconds)
        self.usual = sorted(self._seconds)[len(self._seconds) // 2]

    @property
    def seconds_per_email(self) -> float:
        """By how long an email takes and how many may be in flight here; not by how many ended lately, because those
        are fewer when none was due."""
        seconds, per_second = LEAST_SECONDS, self.provider.emails_per_second
        part = 1.0  # of the provider's limits
        if self.provider.in_flight is not None:
            share = self.share if self.settled_at else self.limit
            seconds = max(seconds, self.usual / max(1, share))
            part = max(1, share) / self.limit
        return seconds if per_second is None else max(seconds, 1 / (per_second * part))


class ProviderGate:
    """One per process."""

    def __init__(
        self, ledger: Ledger, owner: str, limits: Limits, lease_seconds: float, held_batches: HeldBatches
    ) -> None:
        self._ledger = ledger
        self._owner = owner
        self._limits = limits
        self._lease_seconds = lease_seconds
        self._wake_feed = held_batches.wake_feed
        self._note_result = held_batches.note_result
        self._lanes: dict[Key, _Lane] = {}
        #: Lanes with rows that wait, and perhaps room for one: those to look at.
        self._open: dict[Key, None] = {}
        self._waiting = 0
        self._waiting_bytes = 0
        self._claimed = asyncio.Event()

    def key_of(self, relay: str, recipient: str) -> Key | None:
        """The limit that an email is under; None: its provider has none."""
        provider = self._limits.providers.limited(recipient.rpartition("@")[2].lower())
        if provider is None:
            return None
        key = Key(relay, provider.name[:LONGEST_NAME])
        if key not in self._lanes:
            self._lanes[key] = _Lane(provider, time.monotonic())
            self._claimed.set()
        return key

    def admits(self, key: Key, held: HeldBatch, now: float) -> bool:
        """Whether an email of this batch may start now. Rows that wait already come first."""
        lane = self._lanes[key]
        if lane.has_room(now) and not lane.waits():
            return self._limits.not_before(held, key.relay, now, key.provider) <= now
        return False

    def started(self, key: Key) -> None:
        """An email starts."""
        lane = self._lanes[key]
        lane.in_flight += 1
        lane.used_at = time.monotonic()

    def ended(self, key: Key, seconds: float) -> None:
        """An email has its outcome, after so long in flight."""
        lane = self._lanes[key]
        lane.in_flight -= 1
        lane.learn(seconds)
        if lane.queues:
            self._open[key] = None

    def wait(self, key: Key, held: HeldBatch, row: WorklistRow, now: float) -> bool:
        """Takes a row that was not admitted; False if it is deferred instead. One that is due later has its time
        already, and only stays as it is."""
        lane = self._lanes[key]
        lane.used_at = now
        queue = lane.queues.setdefault(held.claim.campaign_id, _Queue())
        if len(queue.rows) < lane.most_waiting() and self._has_memory():
            queue.rows.append(Waiting(held, row, now))
            held.begin_wait(row)
            self._waiting += 1
            self._waiting_bytes += len(row.data or "")
            self._open[key] = None
            self._claim_soon(lane, now)
            return True
        if row.due_at < now + LEAST_DELAY_SECONDS:
            self._defer(key, lane, queue, held, row)
        return False

    def next(self, relay: str, now: float, may_start: Callable[[HeldBatch], bool]) -> tuple[Key, Waiting] | float:
        """A waiting row that may start now; else when to ask again at the latest (infinite: the feed is woken)."""
        again = math.inf
        for key in list(self._open):
            if key.relay != relay:
                self._send_back(key)  # another relay is used now
                continue
            found = self._next_of(key, self._lanes[key], now, may_start)
            if isinstance(found, Waiting):
                return key, found
            again = min(again, found)
        return again

    async def run(self) -> None:
        """Claims, renews and gives back shares."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(SETTLE_SECONDS if self._lanes else None):
                    await self._claimed.wait()
            self._claimed.clear()
            self._look_at_waiting(time.monotonic())
            if lanes := self._unsettled(time.monotonic()):
                await self._settle(lanes)

    async def give_back(self) -> None:
        """Gives all shares back: this process starts no email any more."""
        lanes = {key: lane for key, lane in self._lanes.items() if lane.recorded and not lane.in_flight}
        needs = [Need(key, lane.limit, 0, claims=False) for key, lane in lanes.items()]
        with suppress(Exception):  # they end with their lease
            async with asyncio.timeout(GIVE_BACK_SECONDS), self._ledger.write() as connection:
                await provider_shares.settle(connection, self._owner, needs, self._lease_seconds)

    def _next_of(self, key: Key, lane: _Lane, now: float, may_start: Callable[[HeldBatch], bool]) -> Waiting | float:
        again = math.inf
        for campaign_id, queue in list(lane.queues.items()):
            while queue.rows and queue.rows[0].held.stop is not None:
                self._leave(queue.rows.popleft())
            if not queue.rows:
                continue
            if not lane.has_room(now):
                self._claim_soon(lane, now)
                del self._open[key]
                return math.inf
            held = queue.rows[0].held
            if not may_start(held):
                continue
            start = max(held.starts_at, self._limits.not_before(held, key.relay, now, key.provider))
            if start <= now:
                lane.queues.move_to_end(campaign_id)
                return self._leave(queue.rows.popleft())
            again = min(again, start)
        if not lane.waits():
            del self._open[key]
        return again

    def _unsettled(self, now: float) -> dict[Key, _Lane]:
        """The lanes whose shares are to be settled, new ones first; forgets those that are not used any more."""
        for key, lane in list(self._lanes.items()):
            if not (lane.recorded or lane.is_wanted(now)):
                del self._lanes[key]
                self._open.pop(key, None)
        due = [
            (key, lane)
            for key, lane in self._lanes.items()
            if lane.provider.in_flight is not None
            and now - lane.settled_at >= SETTLE_SECONDS
            and (lane.recorded or lane.is_wanted(now))
        ]
        due.sort(key=lambda one: one[1].settled_at)
        if len(due) > MOST_SETTLED:
            self._claimed.set()
        return dict(due[:MOST_SETTLED])

    async def _settle(self, lanes: dict[Key, _Lane]) -> None:
        """Meanwhile no more emails are in flight in these lanes than the ledger is told, because it may give the rest
        to others."""
        before = time.monotonic()
        needs = []
        for key, lane in lanes.items():
            lane.share, lane.settled_at = min(lane.share, lane.in_flight), before
            needs.append(Need(key, lane.limit, lane.in_flight, claims=lane.is_wanted(before)))
        try:
            async with self._ledger.write() as connection:
                shares = await provider_shares.settle(connection, self._owner, needs, self._lease_seconds)
        except Exception as error:
            if not is_unavailable(error):
                raise
            log.warning("database.unreachable", error=in_a_line(error))
            await asyncio.sleep(RETRY_SECONDS)
            return
        for need in needs:
            key, lane = need.key, lanes[need.key]
            lane.share, lane.valid_until = shares[key], before + self._lease_seconds * LEASE_SHARE
            lane.recorded = max(lane.share, need.in_flight)
            if lane.waits():
                self._open[key] = None
        self._wake_feed()

    def _claim_soon(self, lane: _Lane, now: float) -> None:
        lane.used_at = now
        if now - lane.settled_at > SETTLE_SECONDS:
            self._claimed.set()

    def _send_back(self, key: Key) -> None:
        """The rows go back to their batches, as if they had not been looked at."""
        for queue in self._lanes[key].queues.values():
            while queue.rows:
                waiting = self._leave(queue.rows.pop())
                waiting.held.worklist.put_first(waiting.row)
        del self._open[key]

    def _defer(self, key: Key, lane: _Lane, queue: _Queue, held: HeldBatch, row: WorklistRow) -> None:
        """The row is tried again about when those that wait now have made room for it."""
        now = time.monotonic()
        first = now + LEAST_DELAY_SECONDS
        until = max(queue.deferred_until + EARLY * lane.seconds_per_email * len(lane.queues), first)
        queue.deferred_until = until if until < now + MOST_DELAY_SECONDS else first
        held.defer(row, queue.deferred_until - now, key.relay, _why(key, lane.provider))
        self._note_result()

    def _look_at_waiting(self, now: float) -> None:
        """Forgets rows whose batch stops, defers those that have waited for long, and forgets campaigns without any."""
        for key, lane in self._lanes.items():
            for campaign_id, queue in list(lane.queues.items()):
                rows, queue.rows = queue.rows, deque()
                for waiting in rows:
                    if waiting.held.stop is not None:
                        self._leave(waiting)
                    elif now - waiting.since > LONGEST_WAIT_SECONDS:
                        self._defer(key, lane, queue, waiting.held, self._leave(waiting).row)
                    else:
                        queue.rows.append(waiting)
                if not queue.rows and queue.deferred_until < now:
                    del lane.queues[campaign_id]

    def _has_memory(self) -> bool:
        return self._waiting < MOST_WAITING_IN_ALL and self._waiting_bytes < MOST_WAITING_BYTES

    def _leave(self, waiting: Waiting) -> Waiting:
        self._waiting -= 1
        self._waiting_bytes -= len(waiting.row.data or "")
        waiting.held.end_wait(waiting.row)
        return waiting


def _why(key: Key, provider: Provider) -> str:
    limits = []
    if provider.in_flight is not None:
        limits.append(f"{provider.in_flight} emails in flight")
    if provider.emails_per_second is not None:
        limits.append(f"{provider.emails_per_second:g} a second")
    return f"waits for {key.provider}: at most {' and '.join(limits)} over {key.relay}"

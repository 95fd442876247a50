"""A lane: the emails of this process that are under the same limits, and the slots it has for them."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from shared.ledger.rate_limits import AHEAD_SECONDS, Period, Scopes, Slot

RECENT_SECONDS = 0.25
"""As many emails as began in this time will soon need slots."""

GROWTH = 2
"""Slots that a lane asks for beyond those, and half as many again, while it has an email for them."""

KEPT_SECONDS = 10.0
"""A lane without emails is kept this long."""


class Reserved(NamedTuple):
    """A slot that was reserved under these scopes, in this hour and day."""

    slot: Slot
    period: Period
    scopes: Scopes


@dataclass(slots=True, eq=False)
class Passage:
    """One email on its way through a lane. Moments are monotonic seconds."""

    lane: "Lane"
    #: When the email was taken; None once its envelope was accepted.
    taken_at: float | None = None
    #: Since when it waits for a slot; None: it has not waited yet.
    waits_since: float | None = None
    #: Its slot, from its beginning.
    reserved: Reserved | None = None

    def leave(self) -> None:
        """It is no longer on its way to this lane's slots."""
        if self.taken_at is not None:
            self.lane.coming -= 1
            self.taken_at = None


class Waiter(NamedTuple):
    """An email that waits for a slot."""

    passage: Passage
    may_begin: Callable[[], bool]
    #: Set when a slot begins (True), or when the email must not begin.
    answer: asyncio.Future[bool]


class Lane:
    """Moments are monotonic seconds."""

    def __init__(self, scopes: Scopes, now: float) -> None:
        self.scopes = scopes
        #: Slots that no email has, in the order of time.
        self.slots: deque[Reserved] = deque()
        #: The emails that wait, a cancelled one included until it is found.
        self.waiters: deque[Waiter] = deque()
        #: Emails that were taken, whose envelope is not accepted yet.
        self.coming = 0
        #: There is an email to take, as far as is known.
        self.hungry = False
        #: When the ledger has room again, as last heard, and when to ask for it.
        self.free_at = self.ask_at = now
        self.used_at = now
        self.timer: asyncio.TimerHandle | None = None
        self.timer_at = 0.0
        self._begun: deque[float] = deque()

    def wanted(self, now: float) -> int:
        """Slots to ask for now; 0: it has enough."""
        while self._begun and self._begun[0] < now - RECENT_SECONDS:
            self._begun.popleft()
        if not self.waiters and not self.hungry:
            return 0
        soon = len(self.waiters) + len(self._begun)
        if self.hungry:
            soon += GROWTH + soon // 2
        return soon - len(self.slots) if len(self.slots) <= soon // 2 else 0

    def take_at(self, lead: float, rate: float | None) -> float | None:
        """When to take another email, whose envelope takes `lead` seconds; None: once there are more slots."""
        ahead = self.coming + len(self.waiters)
        if ahead < len(self.slots):
            return self.slots[ahead].slot.begins - lead
        if lead > AHEAD_SECONDS and rate is not None:  # slots come too late for such an envelope
            return self.free_at + (ahead - len(self.slots)) / rate - lead
        return None

    def grant(self, slots: Iterable[Slot], period: Period, free_at: float, ask_at: float) -> None:
        """The ledger's answer."""
        self.slots.extend(Reserved(slot, period, self.scopes) for slot in slots)
        self.free_at, self.ask_at = free_at, ask_at
        self.hungry = False

    def begun_slot(self, now: float) -> Reserved | None:
        """Takes the first slot out, if it has begun."""
        return self.slots.popleft() if self.slots and self.slots[0].slot.begins <= now else None

    def note_begun(self, now: float) -> None:
        """An email has begun."""
        self._begun.append(now)
        self.used_at = now

    def lose_slots(self, now: float) -> list[Reserved]:
        """Takes those out that were not used in time."""
        lost = []
        while self.slots and self.slots[0].slot.ends <= now:
            lost.append(self.slots.popleft())
        return lost

    def is_idle(self, now: float) -> bool:
        """It can be forgotten."""
        return not (self.waiters or self.slots or self.coming or self.hungry) and now - self.used_at > KEPT_SECONDS

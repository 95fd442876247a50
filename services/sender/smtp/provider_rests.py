"""Which providers rest at one relay: those that deferred several recipients in a short time and accepted none.

The emails of a resting provider go to another relay, or wait; all other emails go on at full speed.
"""

from collections import OrderedDict
from typing import NamedTuple

from shared.relays.replies import Reply, Stage

RECIPIENTS = 3
"""Different recipients of one provider that must be deferred ..."""

WITHIN_SECONDS = 60.0
"""... within this time, with none accepted between."""

LONGEST_REST = 16
"""Times the first rest; each is twice as long as the one before, until the provider accepts an email."""

MOST_PROVIDERS = 1000
"""Providers that are watched; the one seen longest ago is forgotten first."""


class Rest(NamedTuple):
    """A provider's rest at a relay: until when, and the refusal that led to it."""

    until: float
    stage: Stage
    reply: Reply


class _Trouble:
    __slots__ = ("deferred", "next_seconds", "rest")

    def __init__(self, rest_seconds: float) -> None:
        self.deferred: dict[str, float] = {}  # when each recipient was
        self.next_seconds = rest_seconds
        self.rest: Rest | None = None


class ProviderRests:
    """Of one relay. All times are the event loop's."""

    def __init__(self, rest_seconds: float) -> None:
        self._rest_seconds = rest_seconds
        self._troubled: OrderedDict[str, _Trouble] = OrderedDict()

    def __bool__(self) -> bool:
        """Whether any provider is in trouble: while none is, an email costs nothing here."""
        return bool(self._troubled)

    def accepted(self, provider: str) -> None:
        """It took an email: whatever came before is forgotten."""
        self._troubled.pop(provider, None)

    def deferred(self, provider: str, recipient: str, stage: Stage, reply: Reply, now: float) -> Rest | None:
        """It refused an email in a way that may mean all of ours. Returns the rest that begins with this."""
        trouble = self._troubled.setdefault(provider, _Trouble(self._rest_seconds))
        self._troubled.move_to_end(provider)
        if len(self._troubled) > MOST_PROVIDERS:
            self._troubled.popitem(last=False)
        if trouble.rest is not None and now < trouble.rest.until:
            return None  # one that was under way when the rest began
        trouble.deferred[recipient] = now
        recent = {known: when for known, when in trouble.deferred.items() if when > now - WITHIN_SECONDS}
        trouble.deferred = recent
        if len(recent) < RECIPIENTS:
            return None
        trouble.rest = Rest(now + trouble.next_seconds, stage, reply)
        trouble.next_seconds = min(LONGEST_REST * self._rest_seconds, 2 * trouble.next_seconds)
        trouble.deferred = {}
        return trouble.rest

    def resting(self, now: float) -> list[tuple[str, Rest]]:
        """The providers that rest now, those that rest longest first."""
        found = [(name, one.rest) for name, one in self._troubled.items() if one.rest is not None]
        return sorted(((name, rest) for name, rest in found if now < rest.until), key=lambda one: -one[1].until)

    def rest_of(self, provider: str, now: float) -> Rest | None:
        """Its rest, if it rests now."""
        trouble = self._troubled.get(provider)
        if trouble is None or trouble.rest is None or now >= trouble.rest.until:
            return None
        return trouble.rest

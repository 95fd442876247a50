"""Relays that share the emails by weight: each is the preferred one for a part of the time.

A turn goes to the relay that is furthest behind its share (smooth weighted round robin). No relay has to catch up what
it missed while it rested: it takes its next turns.
"""

import random
from collections.abc import Sequence

from services.sender.smtp.relay import Relay


class Turns:
    """The order of preference, which changes with each turn if relays have weights. Times are the event loop's."""

    def __init__(self, relays: Sequence[Relay], turn_seconds: float) -> None:
        self.order = list(relays)
        self._relays = tuple(relays)
        self._places = [place for place, relay in enumerate(relays) if relay.config.weight]
        # At random, so that senders do not all prefer the same relay at a time.
        self._behind = {place: random.uniform(0, relays[place].config.weight) for place in self._places}
        self._turn_seconds = turn_seconds
        self._ends_at = 0.0

    def advance(self, now: float) -> None:
        """Begins the next turn if it is time. The relays with a weight keep the places that they have together."""
        if len(self._places) < 2 or now < self._ends_at:
            return
        self._ends_at = now + self._turn_seconds
        for place in self._places:
            self._behind[place] += self._relays[place].config.weight
        first = max(self._places, key=self._behind.__getitem__)
        self._behind[first] -= sum(self._relays[place].config.weight for place in self._places)
        turn = [first, *(place for place in self._places if place != first)]
        for place, source in zip(self._places, turn, strict=True):
            self.order[place] = self._relays[source]

"""A turn's soft deadline, and the room it leaves to others between two transactions."""

import asyncio
import time

LONGEST_BREATH_SECONDS = 0.5


class Deadline:
    """Begins to count when it is made. `was_met`: it has cut work short."""

    def __init__(self, soft_seconds: float) -> None:
        self._until = time.monotonic() + soft_seconds
        self._last_breath = time.monotonic()
        self.was_met = False

    def cuts_short(self) -> bool:
        """Asked after each step that did something, so that every turn makes some progress however short it is."""
        self.was_met = time.monotonic() >= self._until
        return self.was_met

    async def breathe(self) -> None:
        """Waits half as long as the last step took: where there is one writer, others get their turn."""
        now = time.monotonic()
        await asyncio.sleep(min((now - self._last_breath) / 2, LONGEST_BREATH_SECONDS))
        self._last_breath = time.monotonic()

"""A turn's soft deadline, and the room it leaves to others between two transactions."""

import asyncio
import time

LONGEST_BREATH_SECONDS = 0.5


class Deadline:
    """Begins to count when it is made."""

    def __init__(self, soft_seconds: float) -> None:
        self._until = time.monotonic() + soft_seconds
        self._last_breath = time.monotonic()

    @property
    def passed(self) -> bool:
        return time.monotonic() >= self._until

    async def breathe(self) -> None:
        """Waits half as long as the last step took: where there is one writer, others get their turn."""
        now = time.monotonic()
        await asyncio.sleep(min((now - self._last_breath) / 2, LONGEST_BREATH_SECONDS))
        self._last_breath = time.monotonic()

"""How often the service looks for something to tell: often while there is something, seldom otherwise."""

import time

BUSY_SECONDS = 5.0
"""After the last find, for which each tick looks."""
IDLE_LOOK_SECONDS = 1.0


class Pace:
    def __init__(self) -> None:
        self._found_at = self._looked_at = float("-inf")

    def is_due(self) -> bool:
        """Whether this tick looks."""
        now = time.monotonic()
        if now - self._found_at > BUSY_SECONDS and now - self._looked_at < IDLE_LOOK_SECONDS:
            return False
        self._looked_at = now
        return True

    def found(self) -> None:
        self._found_at = time.monotonic()

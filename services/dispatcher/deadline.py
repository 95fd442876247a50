"""A job's soft deadline, and the pauses between its transactions that let others write."""

import asyncio
import time

LONGEST_PAUSE_SECONDS = 0.5


class Deadline:
    """Starts to run when it is created."""

    def __init__(self, soft_seconds: float) -> None:
        self._passes_at = time.monotonic() + soft_seconds
        self._step_began_at = time.monotonic()
        #: The job has found the deadline passed, and has stopped early.
        self.cut_short = False

    def has_passed(self) -> bool:
        """Ask after a step, not before it, so that even the shortest job makes progress."""
        self.cut_short = time.monotonic() >= self._passes_at
        return self.cut_short

    async def pause(self) -> None:
        """Sleeps half as long as the last step took: a database with a single writer is free for others meanwhile."""
        step_seconds = time.monotonic() - self._step_began_at
        await asyncio.sleep(min(step_seconds / 2, LONGEST_PAUSE_SECONDS))
        self._step_began_at = time.monotonic()

"""A job's soft deadline, the size of its steps, and the pauses between them that let others write."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

LONGEST_PAUSE_SECONDS = 0.5

STEP_SECONDS = 0.1
"""A step should take about this long, so that others who write to the same rows, or to SQLite, wait no longer."""

GROWTH = 2
"""A step that took less than half of that is followed by one of this many times its size."""

R = TypeVar("R")


def _no_one_waits() -> bool:
    return False


class Deadline:
    """Starts to run when it is created. `must_yield` says that other campaigns wait, and this job had its share."""

    def __init__(self, soft_seconds: float, must_yield: Callable[[], bool] = _no_one_waits) -> None:
        self._passes_at = time.monotonic() + soft_seconds
        self._must_yield = must_yield
        self._step_began_at = time.monotonic()
        #: The job has found the deadline passed, and has stopped early.
        self.cut_short = False
        #: It stopped early, and because others wait.
        self.yielded = False

    def has_passed(self) -> bool:
        """Ask after a step, not before it, so that even the shortest job makes progress."""
        self.cut_short = time.monotonic() >= self._passes_at
        self.yielded = not self.cut_short and self._must_yield()
        self.cut_short |= self.yielded
        return self.cut_short

    async def pause(self) -> None:
        """Sleeps half as long as the last step took: a database with a single writer is free for others meanwhile."""
        step_seconds = time.monotonic() - self._step_began_at
        await asyncio.sleep(min(step_seconds / 2, LONGEST_PAUSE_SECONDS))
        self._step_began_at = time.monotonic()


class Steps:
    """Steps of a size that the database can do in STEP_SECONDS, between 1 and `most`."""

    def __init__(self, first: int, most: int) -> None:
        self._most = most
        self.size = min(first, most)

    async def run(self, step: Callable[[int], Awaitable[R]]) -> R:
        """Runs one step of the current size in one transaction. If that takes longer than is allowed, tries a smaller
        one; raises TimeoutError if even the smallest takes too long."""
        while True:
            began = time.monotonic()
            try:
                result = await step(self.size)
            except TimeoutError:
                if self.size == 1:
                    raise
                self.size = max(self.size // 8, 1)
                continue
            seconds = time.monotonic() - began
            if seconds > STEP_SECONDS:
                self.size = max(self.size // GROWTH, 1)
            elif seconds < STEP_SECONDS / 2:
                self.size = min(self.size * GROWTH, self._most)
            return result

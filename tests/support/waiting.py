"""Waits for what sends no signal, in another process or thread, by asking again and again."""

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

POLL_SECONDS = 0.02
SLOW_POLL_SECONDS = 0.5


async def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Returns once the condition holds; it may be a coroutine function. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while True:
            result = condition()
            if inspect.isawaitable(result):
                result = await result
            if result:
                return
            await asyncio.sleep(POLL_SECONDS)


def wait_for(condition: Callable[[], T], seconds: float = 120.0, *, every: float = 0.1) -> T:
    """The same, without an event loop. Returns what the condition said."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"the condition was not met within {seconds:g} s"
        time.sleep(every)
    return found


def wait_until(holds: Callable[[], object], trouble: Callable[[], object], seconds: float) -> None:
    """The same, for slow conditions. Fails with what `trouble` says."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not in {seconds:g} s: {trouble()}"
        time.sleep(SLOW_POLL_SECONDS)

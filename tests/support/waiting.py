"""Waits for what sends no signal, in another process or thread, by asking again and again."""

import asyncio
import inspect
import time
from collections.abc import Callable

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


def wait_until(holds: Callable[[], object], trouble: Callable[[], object], seconds: float) -> None:
    """The same, without an event loop. Fails with what `trouble` says."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not in {seconds:g} s: {trouble()}"
        time.sleep(SLOW_POLL_SECONDS)

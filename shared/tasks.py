"""The end of background work."""

import asyncio
from collections.abc import Collection
from typing import Any

CANCEL_AGAIN_SECONDS = 3.0
"""How long a task may take to end, before it is cancelled once more."""


async def end_all(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancels tasks until all have ended. One that has lost a cancellation in a library is cancelled again.

    Their errors are not raised."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN_SECONDS)

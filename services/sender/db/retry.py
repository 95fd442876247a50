"""Statements that must not be given up while the database is away."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from shared import logs
from shared.ledger.database import in_a_line, is_unavailable

RETRY_SECONDS = 0.25

T = TypeVar("T")
log = logs.get()


async def until_available(attempt: Callable[[], Awaitable[T]]) -> T:
    """Repeats `attempt` while it fails because the database is away. Raises any other error."""
    while True:
        try:
            return await attempt()
        except Exception as error:
            if not is_unavailable(error):
                raise
            log.warning("database.unreachable", error=in_a_line(error))
            await asyncio.sleep(RETRY_SECONDS)

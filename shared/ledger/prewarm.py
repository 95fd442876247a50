"""A process that starts executes its frequent statements once, about rows that do not exist.

So the first campaign does not wait until SQLAlchemy has compiled them, and PostgreSQL has read its catalog for them, on
each connection. On two busy cores its first results come 80 ms sooner.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from uuid import UUID

from shared import logs
from shared.ledger.database import Ledger, in_a_line

NO_ID = UUID(int=0)
"""No campaign or project has this id: that of the default project is 1, and all others begin with the time."""
NO_BATCH = 0
"""No batch has this id: the databases count from 1."""

LONGEST_SECONDS = 5.0
"""A process starts without it, if the database takes longer. A slow machine on which all services start takes 1.5 s."""

log = logs.get()


async def prewarm(ledger: Ledger, execute: Callable[[Ledger], Awaitable[None]], connections: int) -> None:
    """Runs `execute`, which must change nothing, over this many connections, one after the other: as many as are busy
    at a time in this process. Call it before anything else uses them. An error is only logged: the statement that fails
    will fail again where it matters."""
    try:
        async with asyncio.timeout(LONGEST_SECONDS), AsyncExitStack() as used:
            await execute(ledger)
            for _ in range(min(connections, ledger.preparing) - 1):
                # The pool gives out the one that came back last.
                await used.enter_async_context(ledger.read())
                await execute(ledger)
    except Exception as error:  # noqa: BLE001 - see above
        log.info("prewarm.failed", error=in_a_line(error))

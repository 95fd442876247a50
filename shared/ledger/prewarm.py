"""A process that starts executes its frequent statements once, about rows that do not exist.

So the first campaign does not wait until SQLAlchemy has compiled them, and PostgreSQL has read its catalog for them, on
each connection. On two busy cores its first results come 50 ms sooner.
"""

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID

from shared import logs
from shared.ledger.database import Ledger, in_a_line

NO_ID = UUID(int=0)
"""No campaign or project has this id: that of the default project is 1, and all others begin with the time."""
NO_BATCH = 0
"""No batch has this id: the databases count from 1."""

CONNECTIONS = 2
"""Most of the time a campaign keeps no more connections of a process busy."""

log = logs.get()


async def prewarm(ledger: Ledger, execute: Callable[[Ledger], Awaitable[None]]) -> None:
    """Runs `execute`, which must change nothing, over a few connections at the same time. An error is only logged:
    the statement that fails will fail again where it matters."""
    try:
        await asyncio.gather(*(execute(ledger) for _ in range(1 if ledger.is_sqlite else CONNECTIONS)))
    except Exception as error:  # noqa: BLE001 - see above
        log.info("prewarm.failed", error=in_a_line(error))

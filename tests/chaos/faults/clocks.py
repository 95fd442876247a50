"""One process's clock jumps. The ledger compares moments by the database's clock alone, so nothing happens.

With SQLite the database's clock is the process's own: one machine, one clock. So only PostgreSQL is tried.
"""

import asyncio

from tests.chaos.catalogue import POSTGRESQL, fault
from tests.chaos.world import CLOCK_FILE, World

JUMPS = ("+3600", "-3600", "+86400", "+0")


@fault("a sender's clock jumps", ledgers=(POSTGRESQL,), clock_of="sender-1", lasts_seconds=5)
async def jump_sender(it: World) -> None:
    await jump(it)


@fault("the dispatcher's clock jumps", ledgers=(POSTGRESQL,), clock_of="dispatcher", lasts_seconds=5)
async def jump_dispatcher(it: World) -> None:
    await jump(it)


@fault("the watchdog's clock jumps", ledgers=(POSTGRESQL,), clock_of="watchdog", lasts_seconds=5)
async def jump_watchdog(it: World) -> None:
    await jump(it)


@fault("the api's clock jumps", ledgers=(POSTGRESQL,), clock_of="api", lasts_seconds=5)
async def jump_api(it: World) -> None:
    await jump(it)


async def jump(it: World) -> None:
    for offset in JUMPS:
        await asyncio.to_thread((it.parts.folder / CLOCK_FILE).write_text, offset)
        await it.a_moment(1, 1.5)

"""The wall clock of one process jumps. Nothing may happen, as all moments in the ledger are the database's.

Only on PostgreSQL: with SQLite the process's clock is the database's.
"""

import asyncio

from tests.chaos.catalogue import POSTGRESQL, fault
from tests.chaos.world import CLOCK_FILE, World

JUMPS = ("+3600", "-3600", "+86400", "+0")


@fault("a sender's clock jumps", ledgers=(POSTGRESQL,), clock_of="sender-1", extra_seconds=5)
async def jump_sender(world: World) -> None:
    await jump(world)


@fault("the dispatcher's clock jumps", ledgers=(POSTGRESQL,), clock_of="dispatcher", extra_seconds=5)
async def jump_dispatcher(world: World) -> None:
    await jump(world)


@fault("the watchdog's clock jumps", ledgers=(POSTGRESQL,), clock_of="watchdog", extra_seconds=5)
async def jump_watchdog(world: World) -> None:
    await jump(world)


@fault("the api's clock jumps", ledgers=(POSTGRESQL,), clock_of="api", extra_seconds=5)
async def jump_api(world: World) -> None:
    await jump(world)


async def jump(world: World) -> None:
    for offset in JUMPS:
        await asyncio.to_thread((world.servers.folder / CLOCK_FILE).write_text, offset)
        await world.random_pause(1, 1.5)

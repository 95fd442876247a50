"""The whole system on this machine, with a relay that records what it gets, for benchmarks of limits."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bench.campaign import folder, ledger_url, private_broker
from cli.local.broker_files import ADMIN, SERVICES
from shared.ledger import migrate
from tests.support.relay import RecordingRelay
from tests.support.system import System, installation


@asynccontextmanager
async def recorded(database: str, senders: int, relay: RecordingRelay, **settings: str) -> AsyncIterator[System]:
    """A system with this many senders. The relay keeps what it has recorded."""
    with private_broker() as broker, folder() as work, ledger_url(database, work) as url:
        await asyncio.to_thread(migrate.upgrade, url)
        relay.start()
        try:
            async with installation(
                work, url, broker.amqp_url(ADMIN), broker.amqp_url(SERVICES), relay, **settings
            ) as system:
                await system.start(senders)
                yield system
        finally:
            relay.stop()

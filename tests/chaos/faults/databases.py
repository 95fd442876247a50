"""The database restarts, dies, or is held by somebody else."""

import asyncio
import sqlite3
import time
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from tests.chaos.catalogue import POSTGRESQL, SQLITE, fault
from tests.chaos.world import LOOK_SECONDS, PATIENCE_SECONDS, World


@fault("PostgreSQL restarts", ledgers=(POSTGRESQL,), mixes=True)
async def restart_postgresql(it: World) -> None:
    assert it.parts.postgres is not None
    await asyncio.to_thread(it.parts.postgres.restart)


@fault("PostgreSQL gets kill -9", ledgers=(POSTGRESQL,), mixes=True)
async def kill_postgresql(it: World) -> None:
    postgres = it.parts.postgres
    assert postgres is not None
    await asyncio.to_thread(postgres.kill)
    await it.a_moment()
    await asyncio.to_thread(postgres.start)
    await asyncio.to_thread(postgres.wait_ready)


@fault("PostgreSQL ends every connection", ledgers=(POSTGRESQL,), mixes=True)
async def end_sessions(it: World) -> None:
    assert it.parts.postgres is not None
    for _ in range(3):
        await asyncio.to_thread(
            it.parts.postgres.query,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            " AND backend_type = 'client backend'",
        )
        await it.a_moment(0.2, 1)


@fault("somebody else holds SQLite's write lock", ledgers=(SQLITE,), lasts_seconds=4)
async def lock_sqlite(it: World) -> None:
    """Beyond the lease: nobody can renew one, and nobody can take one either."""
    await asyncio.to_thread(
        hold, urlsplit(it.parts.database_url).path, it.conditions.lease_seconds + it.chance.uniform(1, 3)
    )


@fault("the disk is full", ledgers=(SQLITE,), lasts_seconds=6)
async def fill_disk(it: World) -> None:
    """No process may make a file longer than it is: what the ledger then says is what a full disk makes it say."""
    path = Path(urlsplit(it.parts.database_url).path)
    limit_files(it, path.with_name(f"{path.name}-wal").stat().st_size)
    try:
        # The log of changes is used up to its end first.
        await until_unready(it, "sender-1")
        await it.a_moment(3, 5)
    finally:
        limit_files(it, psutil.RLIM_INFINITY)
    it.over()
    await asyncio.gather(*(process.wait_ready() for process in it.processes.values()))


def limit_files(it: World, longest: int) -> None:
    for process in it.processes.values():
        psutil.Process(process.pid).rlimit(psutil.RLIMIT_FSIZE, (longest, psutil.RLIM_INFINITY))


async def until_unready(it: World, name: str) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while "it takes no writes" not in (await it.health(name))["database"]:  # noqa: ASYNC110 - another process
            await asyncio.sleep(LOOK_SECONDS)


def hold(path: str, seconds: float) -> None:
    connection = sqlite3.connect(path, timeout=30, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        time.sleep(seconds)
        connection.execute("ROLLBACK")
    finally:
        connection.close()

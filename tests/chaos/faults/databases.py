"""The database restarts, dies, or is held by somebody else."""

import asyncio
import sqlite3
import time
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from tests.chaos.catalogue import POSTGRESQL, SQLITE, fault
from tests.chaos.world import LOOK_SECONDS, PATIENCE_SECONDS, World

TABLES = ("recipient", "batch", "campaign", "timeline", "service_instance", "suppression")
NO_SPACE = (
    "CREATE FUNCTION no_space() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION"
    " 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$;"
    + "".join(
        f"CREATE TRIGGER no_space BEFORE INSERT OR UPDATE ON {table} EXECUTE FUNCTION no_space();" for table in TABLES
    )
)


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


@fault("somebody else holds SQLite's write lock", ledgers=(SQLITE,), outlasts_lease=True, lasts_seconds=4)
async def lock_sqlite(it: World) -> None:
    """Beyond the lease: nobody can renew one, and nobody can take one either."""
    await asyncio.to_thread(
        hold, urlsplit(it.parts.database_url).path, it.conditions.lease_seconds + it.chance.uniform(1, 3)
    )


@fault("the disk is full", ledgers=(SQLITE,), lasts_seconds=6)
async def fill_disk(it: World) -> None:
    """No process may make a file longer than it is: what SQLite then says is what a full disk makes it say."""
    path = Path(urlsplit(it.parts.database_url).path)
    limit_files(it, path.with_name(f"{path.name}-wal").stat().st_size)
    try:
        await until_unready(it)  # the log of changes is used up to its end first
        await it.a_moment(3, 5)
    finally:
        limit_files(it, psutil.RLIM_INFINITY)
    await ready_again(it)


@fault("PostgreSQL's disk is full", ledgers=(POSTGRESQL,), lasts_seconds=6)
async def fill_disk_of_postgresql(it: World) -> None:
    """It answers every write as it does where no file can grow."""
    postgres, database = it.parts.postgres, urlsplit(it.parts.database_url).path.removeprefix("/")
    assert postgres is not None
    await asyncio.to_thread(postgres.query, NO_SPACE, database)
    try:
        await until_unready(it)
        await it.a_moment(3, 5)
    finally:
        await asyncio.to_thread(postgres.query, "DROP FUNCTION no_space CASCADE", database)
    await ready_again(it)


def limit_files(it: World, longest: int) -> None:
    for process in it.processes.values():
        psutil.Process(process.pid).rlimit(psutil.RLIMIT_FSIZE, (longest, psutil.RLIM_INFINITY))


async def until_unready(it: World) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while "it takes no writes" not in (await it.health("sender-1"))["database"]:  # noqa: ASYNC110 - another process
            await asyncio.sleep(LOOK_SECONDS)
    await it.expect_metric("sender-1", "vashsender_database_writable", lambda value: value == 0)


async def ready_again(it: World) -> None:
    it.over()
    await asyncio.gather(*(process.wait_ready() for process in it.processes.values()))
    await it.expect_metric("sender-1", "vashsender_database_writable", lambda value: value == 1)


def hold(path: str, seconds: float) -> None:
    connection = sqlite3.connect(path, timeout=30, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        time.sleep(seconds)
        connection.execute("ROLLBACK")
    finally:
        connection.close()

"""The database restarts, dies, is locked, or has a full disk."""

import asyncio
import sqlite3
import time
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from cli.local.postgres import PrivatePostgres
from tests.chaos.catalogue import POSTGRESQL, SQLITE, fault
from tests.chaos.world import POLL_SECONDS, TIMEOUT_SECONDS, World

TABLES = ("recipient", "batch", "campaign", "timeline", "service_instance", "suppression")
NO_SPACE = (
    "CREATE FUNCTION no_space() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION"
    " 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$;"
    + "".join(
        f"CREATE TRIGGER no_space BEFORE INSERT OR UPDATE ON {table} EXECUTE FUNCTION no_space();" for table in TABLES
    )
)


@fault("PostgreSQL restarts", ledgers=(POSTGRESQL,), in_random_schedule=True)
async def restart_postgresql(world: World) -> None:
    assert world.servers.postgres is not None
    await asyncio.to_thread(world.servers.postgres.restart)


@fault("PostgreSQL gets kill -9", ledgers=(POSTGRESQL,), in_random_schedule=True)
async def kill_postgresql(world: World) -> None:
    postgres = world.servers.postgres
    assert postgres is not None
    await asyncio.to_thread(postgres.kill)
    await world.random_pause()
    await asyncio.to_thread(postgres.start)
    await asyncio.to_thread(postgres.wait_ready)


@fault(
    "the primary gets kill -9, its synchronous standby is promoted",
    ledgers=(POSTGRESQL,),
    has_standby=True,
    extra_seconds=5,
)
async def promote_standby(world: World) -> None:
    """Recovery is measured from the promotion."""
    pair = world.servers.pair
    assert pair is not None
    await asyncio.to_thread(pair.primary.kill)
    await world.random_pause(1, 4)
    await asyncio.to_thread(pair.promote)


@fault("PostgreSQL ends every connection", ledgers=(POSTGRESQL,), in_random_schedule=True)
async def end_sessions(world: World) -> None:
    assert world.servers.postgres is not None
    for _ in range(3):
        await asyncio.to_thread(
            world.servers.postgres.query,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            " AND backend_type = 'client backend'",
        )
        await world.random_pause(0.2, 1)


@fault("another process holds SQLite's write lock", ledgers=(SQLITE,), outlasts_lease=True, extra_seconds=4)
async def lock_sqlite(world: World) -> None:
    """Longer than the lease: no sender can renew its lease, and none can claim a batch either."""
    await asyncio.to_thread(
        hold, urlsplit(world.servers.database_url).path, world.conditions.lease_seconds + world.random.uniform(1, 3)
    )


@fault("the disk is full", ledgers=(SQLITE,), extra_seconds=6)
async def fill_disk(world: World) -> None:
    """No process may extend a file, to which SQLite reacts as it does to a full disk."""
    path = Path(urlsplit(world.servers.database_url).path)
    limit_files(world, path.with_name(f"{path.name}-wal").stat().st_size)
    try:
        await until_unready(world)  # after the space left in the write-ahead log is used up
        await world.random_pause(3, 5)
    finally:
        limit_files(world, psutil.RLIM_INFINITY)
    await ready_again(world)


@fault("PostgreSQL's disk is full", ledgers=(POSTGRESQL,), extra_seconds=6)
async def fill_disk_of_postgresql(world: World) -> None:
    """Triggers make every write fail with the error of a full disk."""
    postgres, database = world.servers.postgres, urlsplit(world.servers.database_url).path.removeprefix("/")
    assert postgres is not None
    await asyncio.to_thread(postgres.query, NO_SPACE, database)
    try:
        await until_unready(world)
        await world.random_pause(3, 5)
    finally:
        await asyncio.to_thread(postgres.query, "DROP FUNCTION no_space CASCADE", database)
    await ready_again(world)


@fault("PostgreSQL is read-only for 6 s, as at a failover", ledgers=(POSTGRESQL,), extra_seconds=6)
async def read_only(world: World) -> None:
    """Every connection, old or new, gets the error of a standby for every write."""
    postgres = world.servers.postgres
    assert postgres is not None
    try:
        await set_read_only(postgres, "on")
        await until_unready(world)
        await asyncio.sleep(6)
    finally:
        await set_read_only(postgres, "off")
    await ready_again(world)


async def set_read_only(postgres: PrivatePostgres, value: str) -> None:
    for statement in (f"ALTER SYSTEM SET default_transaction_read_only = {value}", "SELECT pg_reload_conf()"):
        await asyncio.to_thread(postgres.query, statement)


def limit_files(world: World, longest: int) -> None:
    for process in world.processes.values():
        psutil.Process(process.pid).rlimit(psutil.RLIMIT_FSIZE, (longest, psutil.RLIM_INFINITY))


async def until_unready(world: World) -> None:
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while "it accepts no writes" not in (await world.health("sender-1"))["database"]:  # noqa: ASYNC110 - another process
            await asyncio.sleep(POLL_SECONDS)
    await world.expect_metric("sender-1", "vashsender_database_writable", lambda value: value == 0)


async def ready_again(world: World) -> None:
    world.fault_ended()
    await asyncio.gather(*(process.wait_ready() for process in world.processes.values()))
    await world.expect_metric("sender-1", "vashsender_database_writable", lambda value: value == 1)


def hold(path: str, seconds: float) -> None:
    connection = sqlite3.connect(path, timeout=30, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        time.sleep(seconds)
        connection.execute("ROLLBACK")
    finally:
        connection.close()

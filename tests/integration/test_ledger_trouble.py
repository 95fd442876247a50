"""Readiness and a metric report a database that accepts no writes, until it accepts them again."""

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection

from cli.local.postgres import PrivatePostgres
from shared.health import database_check
from shared.ledger.database import Ledger, in_a_line, is_unavailable
from shared.ledger.keys import create_key
from tests.support.proxy import Proxy, with_port

NO_SPACE = (
    "CREATE FUNCTION no_space() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION"
    " 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$",
    "CREATE TRIGGER no_space BEFORE INSERT ON api_key EXECUTE FUNCTION no_space()",
)
MOST_PAGES = "PRAGMA max_page_count = 1"  # SQLite then takes what it has for all there may be


@pytest.fixture
async def ledger(sqlite_url: str) -> AsyncIterator[Ledger]:
    ledger = Ledger(sqlite_url, pool_size=1)
    yield ledger
    await ledger.close()


async def test_a_full_disk_is_reported_until_a_write_succeeds(ledger: Ledger) -> None:
    check = database_check(ledger)
    assert (await check(), ledger.trouble) == ("", "")
    async with ledger.read() as connection:
        await connection.execute(text(MOST_PAGES))
    with pytest.raises(OperationalError, match="full") as full:
        await fill(ledger)
    assert is_unavailable(full.value)
    assert "database or disk is full" in ledger.trouble
    assert "it accepts no writes" in await check()
    async with ledger.read() as connection:
        await connection.execute(text("PRAGMA max_page_count = 1000000"))
    await fill(ledger)
    assert (await check(), ledger.trouble) == ("", "")


async def test_a_full_disk_of_postgresql_is_reported_too(postgresql_url: str) -> None:
    ledger = Ledger(postgresql_url, pool_size=1)
    try:
        check = database_check(ledger)
        async with ledger.write() as connection:
            for statement in NO_SPACE:
                await connection.execute(text(statement))
        with pytest.raises(DBAPIError, match="No space left") as full:
            await fill(ledger)
        assert is_unavailable(full.value)
        assert "it accepts no writes" in await check()
        async with ledger.write() as connection:
            await connection.execute(text("DROP FUNCTION no_space CASCADE"))
        await fill(ledger)
        assert (await check(), ledger.trouble) == ("", "")
    finally:
        await ledger.close()


async def test_an_error_in_a_statement_is_not_reported_as_trouble(ledger: Ledger) -> None:
    with pytest.raises(ZeroDivisionError):
        async with ledger.write():
            raise ZeroDivisionError
    assert ledger.trouble == ""


async def test_an_error_without_text_is_reported_by_its_name() -> None:
    assert in_a_line(TimeoutError()) == "TimeoutError"
    assert in_a_line(OSError("first\nsecond")) == "first"


async def test_a_transaction_without_an_answer_times_out_and_the_next_one_works(
    postgres: PrivatePostgres, postgresql_url: str
) -> None:
    proxy = Proxy(postgres.port)
    proxy.start()
    ledger = Ledger(with_port(postgresql_url, proxy.port), pool_size=1, transaction_seconds=2.0)
    try:
        await write(ledger)
        await ledger.now()
        proxy.cut()
        proxy.forget()
        proxy.restore()
        with pytest.raises(TimeoutError) as silence:
            await write(ledger)
        assert is_unavailable(silence.value)
        assert ledger.trouble
        await write(ledger)
        assert ledger.trouble == ""
        with pytest.raises(TimeoutError):  # its connection is another one
            await ledger.now()
        await ledger.now()
    finally:
        await ledger.close()
        proxy.stop()


async def test_connections_to_a_server_that_became_read_only_are_dropped(postgresql_url: str) -> None:
    ledger = Ledger(postgresql_url, pool_size=2)
    try:
        async with ledger.read() as one, ledger.read() as other:
            before = {await backend(one), await backend(other)}
            for connection in (one, other):
                await connection.execute(text("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"))
                await connection.commit()
        with pytest.raises(DBAPIError, match="read-only transaction") as refused:
            await write(ledger)
        assert is_unavailable(refused.value)
        assert "read-only" in ledger.trouble
        async with ledger.read() as one, ledger.read() as other:
            after = {await backend(one), await backend(other)}
        assert not before & after
        await write(ledger)
        assert ledger.trouble == ""
    finally:
        await ledger.close()


async def backend(connection: AsyncConnection) -> int:
    """The server process behind a connection."""
    return int((await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one())


async def write(ledger: Ledger) -> None:
    async with ledger.write() as connection:
        await create_key(connection, "one")


async def fill(ledger: Ledger) -> None:
    """Writes more than the free pages of an empty ledger can hold."""
    async with ledger.write() as connection:
        for number in range(500):
            await create_key(connection, f"{number}" + "x" * 180)

"""The connection beside the pool that results are recorded over: it is opened again after whatever ended it."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from sqlalchemy import text

from services.sender.db.retry import until_available
from shared.ledger.database import Ledger, is_unavailable
from tests.support.waiting import until

NOTE = "INSERT INTO mark (id) SELECT CAST($1 AS int)"


@pytest.fixture
async def ledger(postgresql_url: str) -> AsyncIterator[Ledger]:
    ledger = Ledger(postgresql_url, pool_size=1)
    async with ledger.write() as connection:
        await connection.execute(text("CREATE TABLE mark (id int PRIMARY KEY)"))
    yield ledger
    await ledger.close()


async def marks(ledger: Ledger) -> list[int]:
    async with ledger.read() as connection:
        return sorted((await connection.execute(text("SELECT id FROM mark"))).scalars())


async def end_idle_connections(ledger: Ledger) -> None:
    """As a server does that restarts."""
    async with ledger.read() as connection:
        ended = await connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid() AND state = 'idle'"
            )
        )
        assert all(ended.scalars())


async def test_each_statement_is_committed(ledger: Ledger) -> None:
    await ledger.execute_alone(NOTE, 1)
    await ledger.execute_alone(NOTE, 2)
    assert await marks(ledger) == [1, 2]


async def test_its_statement_is_planned_once(ledger: Ledger) -> None:
    note = "INSERT INTO mark (id) SELECT (SELECT generic_plans FROM pg_prepared_statements LIMIT 1) + CAST($1 AS int)"
    for _ in range(7):
        await ledger.execute_alone(note, 0)
    assert await marks(ledger) == list(range(1, 8))


async def test_several_at_once_take_turns(ledger: Ledger) -> None:
    await asyncio.gather(*(ledger.execute_alone(NOTE, number) for number in range(20)))
    assert await marks(ledger) == list(range(20))


async def test_an_error_of_the_statement_leaves_the_connection_as_it_was(ledger: Ledger) -> None:
    await ledger.execute_alone(NOTE, 1)
    with pytest.raises(asyncpg.UniqueViolationError) as raised:
        await ledger.execute_alone(NOTE, 1)
    assert not is_unavailable(raised.value)
    await ledger.execute_alone(NOTE, 2)
    assert await marks(ledger) == [1, 2]


async def test_it_is_opened_again_after_the_server_closed_it(ledger: Ledger) -> None:
    await ledger.execute_alone(NOTE, 1)
    await end_idle_connections(ledger)
    await until_available(lambda: ledger.execute_alone(NOTE, 2))
    assert await marks(ledger) == [1, 2]


async def test_a_cancelled_statement_is_not_left_behind(ledger: Ledger) -> None:
    """Its connection ends, so that the next statement does not wait for it."""

    async def pids(condition: str) -> list[int]:
        ours = f"SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND {condition}"
        async with ledger.read() as connection:
            return list((await connection.execute(text(ours))).scalars())

    slow = asyncio.create_task(ledger.execute_alone("SELECT pg_sleep(3)"))
    await until(lambda: pids("query LIKE 'SELECT pg_sleep%'"))
    [pid] = await pids("query LIKE 'SELECT pg_sleep%'")
    slow.cancel()
    with pytest.raises(asyncio.CancelledError):
        await slow
    await ledger.execute_alone(NOTE, 1)
    assert await marks(ledger) == [1]

    async def has_ended() -> bool:
        return not await pids(f"pid = {pid}")

    await until(has_ended, seconds=20)


async def test_a_read_only_server_is_left(ledger: Ledger) -> None:
    """It was demoted: another connection may find the server that is the primary now."""
    await ledger.execute_alone("SET default_transaction_read_only = on")
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError) as raised:
        await ledger.execute_alone(NOTE, 1)
    assert is_unavailable(raised.value)
    await ledger.execute_alone(NOTE, 1)
    assert await marks(ledger) == [1]


async def test_a_parameter_of_a_wrong_type_is_no_outage(ledger: Ledger) -> None:
    """A sender would try it again for ever."""
    with pytest.raises(asyncpg.DataError) as raised:
        await ledger.execute_alone(NOTE, "one")
    assert not is_unavailable(raised.value)


async def test_a_write_that_failed_is_trouble_until_one_succeeds(ledger: Ledger) -> None:
    await ledger.execute_alone("SET default_transaction_read_only = on")
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        await ledger.execute_alone(NOTE, 1)
    assert "read-only" in ledger.trouble
    await ledger.execute_alone(NOTE, 1)
    assert ledger.trouble == ""

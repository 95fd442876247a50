"""The connections beside the pool, for what is executed again and again: one that has ended is replaced."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from sqlalchemy import (
    ARRAY,
    Float,
    Integer,
    String,
    bindparam,
    column,
    func,
    select,
    table,
    text,
    union_all,
    update,
    values,
)

from services.sender.db.retry import until_available
from shared.ledger import database
from shared.ledger.database import Ledger, is_unavailable
from tests.support.waiting import until

NOTE = "INSERT INTO mark (id) SELECT CAST($1 AS int)"
PID = select(func.pg_backend_pid())
SLEEP = select(func.pg_sleep(bindparam("seconds", type_=Float)))
MARK = table("mark", column("id", Integer))
COUNT = select(func.array_length(bindparam("names", type_=ARRAY(String)), 1))
RENUMBER = update(MARK).where(MARK.c.id == bindparam("old")).values(id=bindparam("new")).returning(MARK.c.id)


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


async def test_a_statement_whose_connection_is_dropped_meanwhile_may_be_executed_again(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another task drops it when it sees that the server was demoted, here between two steps of the driver."""
    ask_types = asyncpg.Connection._introspect_types

    async def dropped_first(driver: asyncpg.Connection, *arguments: object) -> object:
        await ledger.leave_server()
        return await ask_types(driver, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(asyncpg.Connection, "_introspect_types", dropped_first)
        with pytest.raises(ConnectionError) as raised:
            await ledger.read_alone(COUNT, {"names": ["a"]})
    assert is_unavailable(raised.value)
    assert await ledger.read_alone(COUNT, {"names": ["a"]}) == [(1,)]


async def test_a_connection_that_was_opened_while_it_was_dropped_is_left(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may lead to the server that was demoted."""
    reads = ledger._direct_reads
    connect = reads._connect
    dropped: list[int] = []

    async def dropped_meanwhile(**options: object) -> asyncpg.Connection:
        driver = await connect(**options)
        if not dropped:
            dropped.append(driver.get_server_pid())
            reads.drop()
        return driver

    monkeypatch.setattr(reads, "_connect", dropped_meanwhile)
    assert [await pid_of_reads(ledger)] == dropped
    assert [await pid_of_reads(ledger)] != dropped


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


async def pid_of_reads(ledger: Ledger) -> int:
    [(pid,)] = await ledger.read_alone(PID, {})
    return int(pid)


async def test_reads_have_a_connection_of_their_own(ledger: Ledger) -> None:
    assert len({await pid_of_reads(ledger) for _ in range(3)}) == 1
    async with ledger.read() as connection:
        assert await connection.scalar(PID) != await pid_of_reads(ledger)


async def test_a_read_does_not_wait_for_another(ledger: Ledger) -> None:
    before = await pid_of_reads(ledger)
    slow = asyncio.create_task(ledger.read_alone(SLEEP, {"seconds": 30.0}))
    await asyncio.sleep(0)  # it has begun
    assert await pid_of_reads(ledger) != before
    assert not slow.done()
    slow.cancel()
    with pytest.raises(asyncio.CancelledError):
        await slow


async def test_a_read_waits_a_moment_for_those_before_it(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "PATIENCE_SECONDS", 30.0)
    before = await pid_of_reads(ledger)
    first = asyncio.create_task(ledger.read_alone(SLEEP, {"seconds": 0.1}))
    await asyncio.sleep(0)  # it has begun
    given_up = asyncio.create_task(pid_of_reads(ledger))
    after = asyncio.create_task(pid_of_reads(ledger))
    await asyncio.sleep(0)  # they wait
    given_up.cancel()
    assert await after == before
    assert first.done()
    with pytest.raises(asyncio.CancelledError):
        await given_up
    assert await pid_of_reads(ledger) == before


async def test_a_read_waits_no_longer_for_one_that_is_about_to_begin(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is free at that moment, but the other's turn comes first."""
    monkeypatch.setattr(database, "PATIENCE_SECONDS", 1.0)
    await pid_of_reads(ledger)  # connects
    before = await pid_of_reads(ledger)
    turn = ledger._direct_reads._turn
    await turn.acquire()
    slow = asyncio.create_task(ledger.read_alone(SLEEP, {"seconds": 30.0}))
    await asyncio.sleep(0)  # it waits
    turn.release()
    async with asyncio.timeout(20):  # in this task: another would begin later
        assert await pid_of_reads(ledger) != before
    slow.cancel()
    with pytest.raises(asyncio.CancelledError):
        await slow


async def test_a_read_does_not_wait_if_those_before_it_take_long(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database may be far away. Here its turn would come in time."""
    monkeypatch.setattr(database, "PATIENCE_SECONDS", 0.5)
    before = await pid_of_reads(ledger)
    await ledger.read_alone(SLEEP, {"seconds": 0.6})
    quick = asyncio.create_task(ledger.read_alone(SLEEP, {"seconds": 0.1}))
    await asyncio.sleep(0)  # it has begun
    assert await pid_of_reads(ledger) != before
    await quick
    assert await pid_of_reads(ledger) == before


async def test_a_read_gives_what_sqlalchemy_gives(ledger: Ledger) -> None:
    """With constants, lists of constants, and the same value twice."""
    some = values(column("id"), column("word"), name="some").data([(1, "a"), (2, "b"), (3, "c"), (4, None)])
    wanted = bindparam("wanted", type_=String)
    query = select(
        some.c.id, some.c.word, func.coalesce(some.c.word, wanted).label("filled"), func.sum(1.5).label("total")
    ).where((some.c.word.in_(["b", "c"])) | (func.coalesce(some.c.word, wanted) == wanted))
    query = query.group_by(some.c.id, some.c.word).order_by(some.c.id)
    for word in ("x", "y", "b"):
        async with ledger.read() as connection:
            expected = (await connection.execute(query, {"wanted": word})).all()
        rows = await ledger.read_alone(query, {"wanted": word})
        assert rows == expected
        assert [row._asdict() for row in rows] == [row._asdict() for row in expected]
    both = union_all(select(some.c.id), select(some.c.id + 10))
    assert sorted(await ledger.read_alone(both, {})) == [(1,), (2,), (3,), (4,), (11,), (12,), (13,), (14,)]


async def test_a_read_with_a_value_too_few_is_refused(ledger: Ledger) -> None:
    await ledger.read_alone(SLEEP, {"seconds": 0.0})
    with pytest.raises(KeyError):
        await ledger.read_alone(SLEEP, {})


async def test_reads_go_on_after_the_server_closed_their_connection(ledger: Ledger) -> None:
    before = await pid_of_reads(ledger)
    await end_idle_connections(ledger)
    assert await until_available(lambda: pid_of_reads(ledger)) != before


async def test_reads_leave_a_server_that_took_no_write(ledger: Ledger) -> None:
    """It was demoted: what it shows may be old."""
    before = await pid_of_reads(ledger)
    await ledger.execute_alone("SET default_transaction_read_only = on")
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        await ledger.execute_alone(NOTE, 1)
    assert await pid_of_reads(ledger) != before


async def test_a_change_is_committed_and_returns_its_rows(ledger: Ledger) -> None:
    await ledger.execute_alone(NOTE, 1)
    assert await ledger.write_alone(RENUMBER, {"old": 1, "new": 2}) == [(2,)]
    assert await ledger.write_alone(RENUMBER, {"old": 1, "new": 3}) == []
    assert await marks(ledger) == [2]


async def test_a_change_does_not_wait_for_what_is_being_recorded(ledger: Ledger) -> None:
    await ledger.execute_alone(NOTE, 1)
    slow = asyncio.create_task(ledger.execute_alone("SELECT pg_sleep(30)"))
    await asyncio.sleep(0)  # it has begun
    assert await ledger.write_alone(RENUMBER, {"old": 1, "new": 2}) == [(2,)]
    assert not slow.done()
    slow.cancel()
    with pytest.raises(asyncio.CancelledError):
        await slow
    assert await marks(ledger) == [2]

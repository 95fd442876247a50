"""Transactions in one trip: as `write()` and `read()` on both databases, and what is SQLite's own."""

import asyncio
import multiprocessing
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.ledger import sqlite
from shared.ledger.database import Ledger, is_unavailable
from shared.ledger.sqlite import SuspendedError

INSERT = text("INSERT INTO bookmark (name, value, at) VALUES (:name, '{}', 0)")


def adding(
    *names: str, then: Callable[[], None] | None = None
) -> Callable[[AsyncConnection], Coroutine[Any, Any, int]]:
    """Work that adds rows and calls `then`; returns how many rows."""

    async def work(connection: AsyncConnection) -> int:
        for name in names:
            await connection.execute(INSERT, {"name": name})
        if then is not None:
            then()
        return len(names)

    return work


async def names(ledger: Ledger) -> list[str]:
    """Of the rows that are committed."""

    async def work(connection: AsyncConnection) -> list[str]:
        return list((await connection.execute(text("SELECT name FROM bookmark ORDER BY name"))).scalars())

    return await ledger.read_at_once(work)


def fail() -> None:
    raise ZeroDivisionError


async def test_what_was_written_is_there_and_the_result_comes_back(ledger: Ledger) -> None:
    assert await ledger.write_at_once(adding("a", "b")) == 2
    assert await names(ledger) == ["a", "b"]


async def test_an_error_rolls_back_and_the_next_transaction_works(ledger: Ledger) -> None:
    with pytest.raises(ZeroDivisionError):
        await ledger.write_at_once(adding("a", then=fail))
    assert await names(ledger) == []
    await ledger.write_at_once(adding("b"))
    assert await names(ledger) == ["b"]


async def test_what_runs_before_each_commit_runs_in_the_transaction(ledger: Ledger) -> None:
    async def before_commit(connection: AsyncConnection) -> None:
        await connection.execute(INSERT, {"name": "last"})
        if await connection.scalar(text("SELECT count(*) FROM bookmark")) == 2:
            raise ZeroDivisionError

    ledger.before_commit = before_commit
    with pytest.raises(ZeroDivisionError):
        await ledger.write_at_once(adding("a"))
    assert await names(ledger) == []
    await ledger.write_at_once(adding())
    assert await names(ledger) == ["last"]


async def test_it_works_again_after_a_close(ledger: Ledger) -> None:
    await ledger.write_at_once(adding("a"))
    await ledger.close()
    assert await names(ledger) == ["a"]


@pytest.fixture
async def on_sqlite(sqlite_url: str) -> AsyncIterator[Ledger]:
    ledger = Ledger(sqlite_url)
    yield ledger
    await ledger.close()


async def test_twenty_statements_are_one_trip(on_sqlite: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    woken = 0
    wake = loop.call_soon_threadsafe

    def count(*args: Any, **kwargs: Any) -> asyncio.Handle:
        nonlocal woken
        woken += 1
        return wake(*args, **kwargs)

    monkeypatch.setattr(loop, "call_soon_threadsafe", count)
    await on_sqlite.write_at_once(adding(*map(str, range(20))))
    assert woken == 1
    async with on_sqlite.write() as connection:
        await adding("more")(connection)
    assert woken > 5


@pytest.mark.parametrize(("seconds", "error"), [(0, SuspendedError), (1, RuntimeError)])
async def test_work_that_waits_for_something_else_is_refused(
    on_sqlite: Ledger, seconds: float, error: type[RuntimeError]
) -> None:
    async def work(connection: AsyncConnection) -> None:
        await adding("a")(connection)
        await asyncio.sleep(seconds)  # one second needs an event loop, and the thread has none

    with pytest.raises(error):
        await on_sqlite.write_at_once(work)
    assert await names(on_sqlite) == []
    await on_sqlite.write_at_once(adding("b"))
    assert await names(on_sqlite) == ["b"]


async def test_a_caller_that_is_cancelled_leaves_nothing_half_done(on_sqlite: Ledger) -> None:
    loop = asyncio.get_running_loop()
    inside, go_on = asyncio.Event(), threading.Event()

    def stop_here() -> None:
        loop.call_soon_threadsafe(inside.set)
        go_on.wait(30)

    task = asyncio.create_task(on_sqlite.write_at_once(adding("a", then=stop_here)))
    behind = asyncio.create_task(on_sqlite.write_at_once(adding("b")))
    await inside.wait()
    for _ in range(3):  # however often
        task.cancel()
        behind.cancel()
        await asyncio.sleep(0)
    assert not task.done()  # its transaction is open
    go_on.set()
    for each in (task, behind):
        with pytest.raises(asyncio.CancelledError):
            await each
    with sqlite3.connect(str(on_sqlite.engine.url.database), timeout=0, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")  # no one has the write lock
        assert other.execute("SELECT name FROM bookmark").fetchall() == []
    other.close()
    await on_sqlite.write_at_once(adding("c"))
    assert await names(on_sqlite) == ["c"]


async def add_until_it_is_late(ledger: Ledger) -> None:
    """A time limit passes within the transaction, which ends only afterwards."""
    loop, go_on = asyncio.get_running_loop(), threading.Event()
    async with asyncio.timeout(None) as limit:

        def expires() -> None:
            limit.reschedule(loop.time())  # which cancels the caller
            loop.call_soon(loop.call_soon, go_on.set)

        def then() -> None:
            loop.call_soon_threadsafe(expires)
            assert go_on.wait(60)

        await ledger.write_at_once(adding("a", then=then))


async def test_a_time_limit_within_which_the_transaction_ends_late_is_a_timeout(on_sqlite: Ledger) -> None:
    with pytest.raises(TimeoutError):
        await add_until_it_is_late(on_sqlite)
    assert await names(on_sqlite) == []


@contextmanager
def write_lock(ledger: Ledger) -> Iterator[sqlite3.Connection]:
    """Held by another process."""
    other = sqlite3.connect(str(ledger.engine.url.database), isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield other
    finally:
        other.close()


async def test_a_lock_that_another_holds_too_long_is_an_outage(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0)
    ledger = Ledger(sqlite_url)
    with write_lock(ledger):
        with pytest.raises(OperationalError) as caught:
            await ledger.write_at_once(adding("a"))
        assert is_unavailable(caught.value)
        assert ledger.trouble
        assert "'a'" not in str(caught.value)
        assert await names(ledger) == []  # readers do not wait
    await ledger.write_at_once(adding("a"))
    assert not ledger.trouble
    await ledger.close()


async def test_a_lock_that_another_lets_go_is_waited_for(on_sqlite: Ledger) -> None:
    begins = threading.Event()

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement == "BEGIN IMMEDIATE":
            begins.set()

    for engine in on_sqlite.engines:
        event.listen(engine, "before_cursor_execute", note)
    with write_lock(on_sqlite) as other:
        task = asyncio.create_task(on_sqlite.write_at_once(adding("a")))
        assert await asyncio.to_thread(begins.wait, 60)
        assert not task.done()
        assert await names(on_sqlite) == []
        other.execute("COMMIT")
        await task
    assert await names(on_sqlite) == ["a"]


async def test_an_error_names_no_recipient(on_sqlite: Ledger) -> None:
    await on_sqlite.write_at_once(adding("mia@example.com"))
    with pytest.raises(Exception, match="UNIQUE") as caught:
        await on_sqlite.write_at_once(adding("mia@example.com"))
    assert "mia" not in str(caught.value)


def add_many(url: str, prefix: str, count: int) -> None:
    """A separate process: one row in each transaction, by turns in one trip and in several."""

    async def run() -> None:
        ledger = Ledger(url)
        for number in range(count):
            work = adding(f"{prefix}-{number}")
            if number % 2:
                await ledger.write_at_once(work)
            else:
                async with ledger.write() as connection:
                    await work(connection)
        await ledger.close()

    asyncio.run(run())


async def test_two_processes_and_both_ways_write_at_the_same_time(sqlite_url: str) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=add_many, args=(sqlite_url, prefix, 50)) for prefix in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        await asyncio.to_thread(writer.join, 60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    ledger = Ledger(sqlite_url)
    assert len(await names(ledger)) == 100
    await ledger.close()


async def test_a_connection_that_is_given_up_locks_nothing_although_a_cursor_of_it_is_held(sqlite_url: str) -> None:
    """The traceback of a cancelled statement holds one."""
    ledger = Ledger(sqlite_url)
    held = []

    async def given_up() -> None:
        async with ledger.write() as connection:
            await connection.execute(INSERT, {"name": "a"})
            driver = (await connection.get_raw_connection()).driver_connection
            assert driver is not None
            held.append(await driver.execute("SELECT 1 UNION SELECT 2"))
            await connection.invalidate()
            fail()

    with pytest.raises(ZeroDivisionError):
        await given_up()
    other = sqlite3.connect(ledger.engine.url.database or "", timeout=0)
    other.execute("BEGIN IMMEDIATE").close()
    other.close()
    assert await names(ledger) == []
    assert held
    await ledger.close()

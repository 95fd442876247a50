"""SQLite's connections: how each is prepared, and a thread that runs a whole transaction in one trip.

The driver of asyncio (aiosqlite) has a thread for each connection, and each cursor, statement, fetch, BEGIN and COMMIT
is a trip to it and back. For the short transactions of a hot path the trips cost more than the statements.
"""

import asyncio
import contextlib
import contextvars
import sqlite3
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

BUSY_SECONDS = 20
"""How long a statement waits while another process writes."""

T = TypeVar("T")
Work = Callable[[AsyncConnection], Coroutine[Any, Any, T]]
"""The statements of a transaction. It may await nothing but them."""


class RollingBack(sqlite3.Connection):
    """Ends its transaction as it closes.

    SQLite keeps a closed connection, its transaction and its locks until each of its cursors is gone, and the traceback
    of a cancelled statement holds a cursor for as long as that error is handled."""

    def close(self) -> None:
        with contextlib.suppress(sqlite3.Error):  # closed already, or the disk failed
            self.rollback()
        super().close()


def connect_args() -> dict[str, Any]:
    """What the driver is given for each connection."""
    return {"timeout": BUSY_SECONDS, "factory": RollingBack}


class SuspendedError(RuntimeError):
    """The work of a transaction that runs in one trip has waited for something other than its statements. Use
    `Ledger.write` or `Ledger.read` for it."""


class OneTrip:
    """A connection on its own thread, which runs one transaction after the other, each in one trip.

    `mode` is IMMEDIATE for transactions that write, DEFERRED for those that only read. `engine` is the one of asyncio,
    for the same database."""

    def __init__(self, engine: AsyncEngine, url: URL, mode: str) -> None:
        self._engine = engine
        #: Of the thread.
        self.own = create_engine(
            url.set(drivername="sqlite+pysqlite"),
            pool_size=1,
            max_overflow=0,
            connect_args=connect_args(),
            hide_parameters=True,
        ).execution_options(vashsender_begin=mode)
        event.listen(self.own, "connect", prepare)
        event.listen(self.own, "begin", begin)
        self._thread: ThreadPoolExecutor | None = None

    async def run(self, work: Work[T]) -> T:
        """Runs `work` in a transaction, which an error rolls back.

        A caller that is cancelled waits until the transaction has ended. It is rolled back, unless its COMMIT has
        begun: nothing is half done, and no lock stays."""
        abandoned = threading.Event()

        def transact() -> T:
            with self.own.connect() as connection, connection.begin():
                _go_on_unless(abandoned)
                result = _finish(work(_InThread(self._engine, connection)))
                _go_on_unless(abandoned)
                return result

        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "sqlite")
        trip = asyncio.get_running_loop().run_in_executor(self._thread, contextvars.copy_context().run, transact)
        try:
            return await asyncio.shield(trip)
        except asyncio.CancelledError:
            abandoned.set()
            while not trip.done():
                await _wait_once(trip)
            raise

    async def close(self) -> None:
        """Closes the connection. A later transaction opens another."""
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.get_running_loop().run_in_executor(thread, self.own.dispose)
            thread.shutdown()


class _InThread(AsyncConnection):
    """The same interface as everywhere, over a driver that never suspends."""

    async def execute(self, *args: Any, **options: Any) -> Any:
        return self._proxied.execute(*args, **options)

    async def exec_driver_sql(self, *args: Any, **options: Any) -> Any:
        return self._proxied.exec_driver_sql(*args, **options)


class _AbandonedError(Exception):
    """The caller was cancelled. Raised to roll back; no one sees it."""


def _go_on_unless(abandoned: threading.Event) -> None:
    if abandoned.is_set():
        raise _AbandonedError


async def _wait_once(trip: asyncio.Future[Any]) -> None:
    """Waits for the end of the trip, or until the caller is cancelled once more."""
    try:
        await asyncio.wait([trip])
    except asyncio.CancelledError:
        return


def _finish(work: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine that does not suspend."""
    try:
        work.send(None)
    except StopIteration as ended:
        result: T = ended.value
        return result
    work.close()
    raise SuspendedError(SuspendedError.__doc__)


def prepare(connection: DBAPIConnection, _record: object) -> None:
    """Sets what each connection needs."""
    # `begin` begins transactions; the driver would begin deferred ones.
    connection.isolation_level = None
    try:
        cursor = connection.cursor()
        for pragma in (
            "journal_mode = WAL",
            "synchronous = FULL",
            f"busy_timeout = {BUSY_SECONDS * 1000}",
            "foreign_keys = ON",
            "cache_size = -65536",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()
    except BaseException:
        connection.close()  # SQLAlchemy does not: its thread would stay, one for each try on a damaged file
        raise


def begin(connection: Connection) -> None:
    """Begins a transaction in the mode of the connection's options."""
    mode = connection.get_execution_options().get("vashsender_begin", "DEFERRED")
    connection.exec_driver_sql(f"BEGIN {mode}")

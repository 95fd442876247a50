"""Connections to the ledger: short transactions on SQLite and PostgreSQL, and the database's own clock."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

import asyncpg
from sqlalchemy import Engine, Float, ScalarSelect, event, select
from sqlalchemy.engine.interfaces import ExceptionContext
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import FunctionElement

from shared.ledger import sqlite
from shared.ledger.connect import connect_args, server_of
from shared.ledger.direct import AnyRow, DirectConnection, DirectQuery, Query
from shared.ledger.sqlite import OneTrip, Work
from shared.ledger.tls import database_tls

TRANSACTION_SECONDS = 60.0
TROUBLE_SECONDS = 15.0
"""A failed write counts as current trouble for this long; anything that needs to write tries again sooner."""

PATIENCE_SECONDS = 0.02
"""How long a statement that goes straight to the driver waits for those before it. Each takes a few milliseconds if the
database is near, less than the statement takes over the pool. If they take longer, it does not wait."""

CLOSE_SECONDS = 5.0
"""How long closing the connections may take."""

T = TypeVar("T")

UNAVAILABLE = (OperationalError, InterfaceError, PoolTimeout, OSError)
"""The errors of a statement while the database is away, restarting, full, or has no primary."""

READ_ONLY = "25006"
"""SQLSTATE of a write to a standby, or to a primary that was demoted."""
UNAVAILABLE_STATES = frozenset({READ_ONLY, "25P03", "25P04", "3D000", "55P03"})
"""SQLSTATEs of statements that may succeed later: a read-only server, a transaction that took longer than the server
allows, a database that is being restored, a lock that was not available in time."""
UNAVAILABLE_CLASSES = frozenset({"08", "28", "40", "53", "57", "58", "XX"})
"""SQLSTATE classes of statements that may succeed later: a lost connection, a refused login (while passwords change or
a server is replaced), a lost race, a server that is full, one that shuts down, one whose disk fails, an internal error.
A damaged index or table (XX001, XX002) needs a person, but a process that ended would lose its results."""
SQLITE_CODES = frozenset(
    {
        *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR),
        *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB),
    }
)
"""SQLite's codes of statements that may succeed later, damage included. While a connection is opened the driver's own
error arrives, and damage is no OperationalError."""


def is_unavailable(error: BaseException) -> bool:
    """Whether the same statement may succeed later: the database is away, restarting, full, locked, read-only, or waits
    for its operator."""
    if isinstance(error, UNAVAILABLE) or (isinstance(error, DBAPIError) and error.connection_invalidated):
        return True
    state = _sqlstate(error)
    if state in UNAVAILABLE_STATES or state[:2] in UNAVAILABLE_CLASSES:
        return True
    # The first byte of an extended code is the code.
    return getattr(getattr(error, "orig", error), "sqlite_errorcode", 0) & 0xFF in SQLITE_CODES


def _sqlstate(error: BaseException | None) -> str:
    """PostgreSQL's code of an error, whether or not SQLAlchemy has wrapped it; empty if it has none."""
    return str(getattr(getattr(error, "orig", error), "sqlstate", None) or "")


def in_a_line(error: BaseException) -> str:
    """The first line of an error, or its class name if it has no text."""
    return (str(error) or type(error).__name__).splitlines()[0]


class db_now(FunctionElement[float]):  # noqa: N801 - reads as the SQL function it is
    """Now by the database's clock, in seconds since 1970. Moments of the ledger are compared with no other clock."""

    type = Float(53)
    inherit_cache = True
    name = "db_now"


_CLOCK = select(db_now())


def db_now_once() -> ScalarSelect[float]:
    """The same, read once in a statement. PostgreSQL compares a column with it by an index; with db_now, which may
    change from row to row, it reads all rows."""
    return select(db_now()).scalar_subquery()


POSTGRESQL_NOW = "date_part('epoch', clock_timestamp())"
"""Cheaper than `extract`, whose result is a decimal number that has to be converted."""
SQLITE_NOW = "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(db_now, "postgresql")
def _postgresql_now(_element: db_now, _compiler: Any, **_: Any) -> str:
    return POSTGRESQL_NOW


@compiles(db_now, "sqlite")
def _sqlite_now(_element: db_now, _compiler: Any, **_: Any) -> str:
    return SQLITE_NOW


class Ledger:
    """A pool of database connections. `write()` is one transaction; an exception rolls it back.

    The URL may have libpq's TLS options (see shared.tls), several hosts and `pooler=transaction` (see
    shared.ledger.connect); raises ConfigurationError if they cannot be used.

    A transaction that takes longer than `transaction_seconds` raises TimeoutError, and its connection is closed: if the
    network drops a connection silently, nothing else ends the wait. (SQLite has no network.)"""

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 8,
        application: str = "vashsender",
        transaction_seconds: float = TRANSACTION_SECONDS,
    ) -> None:
        address, context = database_tls(url)
        self.is_sqlite = url.startswith("sqlite")
        self._pool_size = pool_size
        self._transaction_seconds = None if self.is_sqlite else transaction_seconds
        address, self._is_pooled = server_of(address)
        arguments: Mapping[str, Any] = sqlite.connect_args()
        if not self.is_sqlite:
            arguments = connect_args(application, context, is_pooled=self._is_pooled)
        self.engine = create_async_engine(
            address,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=30,
            pool_use_lifo=True,  # the connection used last has its statements prepared, and its server process is warm
            connect_args=dict(arguments),
            hide_parameters=True,  # an error in a log must name no recipient
        )
        #: Runs at the end of each writing transaction, in it.
        self.before_commit: Callable[[AsyncConnection], Awaitable[None]] | None = None
        self._trouble: tuple[float, str] = (0.0, "")
        self._failed_at = float("-inf")
        self._autocommit = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        if self.is_sqlite:
            event.listen(self.engine.sync_engine, "connect", sqlite.prepare)
            event.listen(self.engine.sync_engine, "begin", sqlite.begin)
            self._one_trip_reads = OneTrip(self.engine, self.engine.url, "DEFERRED")
            self._one_trip_writes = OneTrip(self.engine, self.engine.url, "IMMEDIATE")
        else:
            event.listen(self.engine.sync_engine, "handle_error", _leave_useless_connections)
            self._direct, self._direct_reads = (
                DirectConnection(self.engine.dialect, self.engine.url, arguments, is_pooled=self._is_pooled)
                for _ in range(2)
            )
            self._direct_queries: dict[Query, DirectQuery] = {}

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return self.engine.dialect.name

    @property
    def preparing(self) -> int:
        """Connections of the pool, at most, on which statements are prepared."""
        return 0 if self.is_sqlite or self._is_pooled else self._pool_size

    @property
    def engines(self) -> Sequence[Engine]:
        """All that execute statements, for those who listen to them."""
        if not self.is_sqlite:
            return [self.engine.sync_engine]
        return [self.engine.sync_engine, self._one_trip_reads.own, self._one_trip_writes.own]

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """For statements that only read. On PostgreSQL each is its own transaction, in a single round trip; READ
        COMMITTED would show it no other rows. Behind a pooler it is one transaction, as `autocommit` explains."""
        engine = self.engine if self.is_sqlite or self._is_pooled else self._autocommit
        with self._noting_failure():
            async with asyncio.timeout(self._transaction_seconds), engine.connect() as connection:
                yield connection

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """A writing transaction, committed at the end of the block.

        On SQLite it takes the write lock at once: a transaction that starts to write after it has read fails whatever
        the timeout."""
        with self._noting_trouble():
            async with asyncio.timeout(self._transaction_seconds), self.engine.connect() as connection:
                if self.is_sqlite:
                    connection = await connection.execution_options(vashsender_begin="IMMEDIATE")
                async with connection.begin():
                    yield connection
                    if self.before_commit is not None:
                        await self.before_commit(connection)

    async def read_at_once(self, work: Work[T]) -> T:
        """`work(connection)` within `read()`, for statements that a clock or a hot path executes again and again.

        On SQLite it is one trip to a thread, not five for each statement. `work` runs on that thread: it may await
        nothing but its statements (else SuspendedError), must return no open result of one, and must not touch what the
        event loop uses meanwhile."""
        if not self.is_sqlite:
            async with self.read() as connection:
                return await work(connection)
        with self._noting_failure():
            return await self._one_trip_reads.run(work)

    async def write_at_once(self, work: Work[T]) -> T:
        """`work(connection)` within `write()`; on SQLite in one trip, as `read_at_once`. These transactions of a
        process take turns."""
        if not self.is_sqlite:
            async with self.write() as connection:
                return await work(connection)

        async def whole(connection: AsyncConnection) -> T:
            result = await work(connection)
            if self.before_commit is not None:
                await self.before_commit(connection)
            return result

        with self._noting_trouble():
            return await self._one_trip_writes.run(whole)

    @asynccontextmanager
    async def autocommit(self) -> AsyncIterator[AsyncConnection]:
        """For one statement that is a whole transaction, in a single round trip. PostgreSQL only.

        Behind a pooler it is a usual transaction: the statement is parsed in one round trip and executed in the next,
        which would reach another connection."""
        if self._is_pooled:
            async with self.write() as connection:
                yield connection
            return
        with self._noting_trouble():
            async with asyncio.timeout(self._transaction_seconds), self._autocommit.connect() as connection:
                yield connection

    async def write_alone(self, statement: Query, values: Mapping[str, Any]) -> Sequence[AnyRow]:
        """What one statement returns that is a whole transaction: `autocommit()`, or `write_at_once` on SQLite. It is a
        constant that is executed as `read_alone` says, over the connection of `execute_alone`."""
        if self.is_sqlite:
            return await self.write_at_once(partial(_rows, statement=statement, values=values))
        with self._noting_trouble():
            found = None if self._is_pooled else await self._directly(self._direct, statement, values)
            if found is None:
                async with self.autocommit() as connection:
                    found = await _rows(connection, statement, values)
            return found

    async def read_alone(self, query: Query, values: Mapping[str, Any]) -> Sequence[AnyRow]:
        """The rows of one SELECT that is executed again and again: within `read()`, or on PostgreSQL straight by the
        driver, unless its connection stays busy.

        `query` is a constant of its module, because its SQL is kept. Neither the values, which are bound by name, nor
        the columns have a type that SQLAlchemy converts."""
        with self._noting_failure():
            found = None
            if not (self.is_sqlite or self._is_pooled):
                found = await self._directly(self._direct_reads, query, values)
            if found is None:
                found = await self.read_at_once(partial(_rows, statement=query, values=values))
            return found

    async def _directly(
        self, over: DirectConnection, query: Query, values: Mapping[str, Any]
    ) -> Sequence[AnyRow] | None:
        """None: the connection stays busy."""
        direct = self._direct_queries.get(query)
        if direct is None:
            direct = self._direct_queries[query] = DirectQuery(query, self.engine.dialect, values)
        async with asyncio.timeout(self._transaction_seconds):
            found = await over.execute(direct.statement, *direct.ordered(values), patience=PATIENCE_SECONDS)
        return None if found is None else direct.rows(found)

    async def execute_alone(self, statement: str, *values: object) -> None:
        """One statement with the parameters $1, $2 and so on that is a whole transaction, over a connection beside the
        pool: for one that runs hundreds of times a second. PostgreSQL only. Its own errors are asyncpg's."""
        with self._noting_trouble():
            async with asyncio.timeout(self._transaction_seconds):
                await self._direct.execute(statement, *values)

    @property
    def trouble(self) -> str:
        """Why the last write failed, if the database was full, locked or away within TROUBLE_SECONDS; else empty."""
        since, why = self._trouble
        return why if time.monotonic() - since < TROUBLE_SECONDS else ""

    def failed_within(self, seconds: float) -> bool:
        """Whether a transaction, reading ones included, failed within these seconds because the database was away."""
        return time.monotonic() - self._failed_at <= seconds

    @contextmanager
    def _noting_trouble(self) -> Iterator[None]:
        try:
            with self._noting_failure():
                yield
        except Exception as error:
            if is_unavailable(error):
                self._trouble = (time.monotonic(), in_a_line(error))
            if _sqlstate(error) == READ_ONLY and not self.is_sqlite:
                self._direct_reads.drop()  # it may lead to a primary that was demoted
            raise
        self._trouble = (0.0, "")

    @contextmanager
    def _noting_failure(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if is_unavailable(error):
                self._failed_at = time.monotonic()
            raise

    async def leave_server(self) -> None:
        """Drops all connections. New ones go to the server that is the primary by then."""
        if not self.is_sqlite:
            self._direct.drop()
            self._direct_reads.drop()
        await self.engine.dispose()

    async def now(self) -> float:
        """The database's clock."""
        [(now,)] = await self.read_alone(_CLOCK, {})
        return float(now)

    async def close(self) -> None:
        """Ends the connections. One whose server does not answer is dropped."""
        # A cancelled close would leave sockets behind.
        await asyncio.shield(self._close())

    async def _close(self) -> None:
        if self.is_sqlite:
            await self._one_trip_reads.close()
            await self._one_trip_writes.close()
        else:
            self._direct.drop()
            self._direct_reads.drop()
        # The driver waits for the server without end. What is left open after that ends with the process.
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.engine.dispose()


async def clock(connection: AsyncConnection) -> float:
    """The database's clock, read in the current transaction."""
    return float((await connection.execute(_CLOCK)).scalar_one())


async def _rows(connection: AsyncConnection, statement: Query, values: Mapping[str, Any]) -> Sequence[AnyRow]:
    return (await connection.execute(statement, values)).all()


def _leave_useless_connections(context: ExceptionContext) -> None:
    """Drops every connection of the pool after a write to a read-only server. They may lead to a primary that was
    demoted; new ones go to the server that is the primary by then. And drops one connection whose driver lost step with
    the server: it does so when the server closes the connection just as a statement begins."""
    error = context.original_exception
    if _sqlstate(error) == READ_ONLY:
        context.is_disconnect = True
    elif isinstance(error.__cause__, asyncpg.InternalClientError):
        context.is_disconnect = True
        context.invalidate_pool_on_disconnect = False

"""A connection beside the pool, for statements that a process executes many times a second.

It goes straight to PostgreSQL's driver: SQLAlchemy takes five times as long for a statement as the driver does.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg
from sqlalchemy import URL, CompoundSelect, Dialect, Row, Select
from sqlalchemy.engine.result import IteratorResult, SimpleResultMetaData
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.dml import ReturningUpdate

_OF_SQLALCHEMY = ("async_creator_fn", "prepared_statement_cache_size")
"""Arguments of SQLAlchemy that its dialect keeps from the driver."""

_ONE_PLAN = "SET plan_cache_mode = force_generic_plan"
"""Its statements have one good plan each, by the indexes. PostgreSQL would make a new one for each of the first
executions (76 were seen), which takes more than half as long as the statement itself."""


Query = Select[*tuple[Any, ...]] | CompoundSelect[*tuple[Any, ...]] | ReturningUpdate[Any]
AnyRow = Row[*tuple[Any, ...]]


class DirectQuery:
    """A statement as the driver takes it. Its values and its columns must have types that the driver itself knows.

    `values`: those of its first execution, by name. Each other one has the same names."""

    def __init__(self, query: Query, dialect: Dialect, values: Mapping[str, Any]) -> None:
        # Constants in the query are parameters too; of a list, as in `status IN (...)`, each one.
        compiled = query.compile(dialect=dialect)
        assert isinstance(compiled, SQLCompiler), "so it is for a statement that returns rows"
        state = compiled.construct_expanded_state(values)
        self.statement = state.statement
        self._names = state.positiontup or ()
        self._constants = {name: value for name, value in state.parameters.items() if name not in values}
        self._columns = SimpleResultMetaData([str(name) for name, _ in query.exported_columns.items()])

    def ordered(self, values: Mapping[str, Any]) -> list[Any]:
        """The values as $1, $2 and so on."""
        every = {**self._constants, **values}
        return [every[name] for name in self._names]

    def rows(self, records: Sequence[asyncpg.Record]) -> Sequence[AnyRow]:
        """As SQLAlchemy would return them."""
        found: IteratorResult[*tuple[Any, ...]] = IteratorResult(self._columns, iter([tuple(one) for one in records]))
        return found.all()


class DirectConnection:
    """Opened when it is first used, in the same way as those of the pool. One statement runs at a time.

    `arguments`: what the pool's connections are made with, see `shared.ledger.connect`."""

    def __init__(self, dialect: Dialect, url: URL, arguments: Mapping[str, Any], *, is_pooled: bool) -> None:
        _, options = dialect.create_connect_args(url)
        self._connect = arguments["async_creator_fn"]
        self._options = {**options, **{k: v for k, v in arguments.items() if k not in _OF_SQLALCHEMY}}
        if not is_pooled:
            self._options["max_cached_statement_lifetime"] = 0  # prepared for good: the first campaign of a day, too
        self._is_pooled = is_pooled
        self._turn = asyncio.Lock()
        self._driver: asyncpg.Connection | None = None
        #: How many times it was dropped.
        self._drops = 0
        #: Seconds that the last statement took.
        self._lasted = 0.0

    async def execute(
        self, statement: str, *values: object, patience: float | None = None
    ) -> Sequence[asyncpg.Record] | None:
        """One statement with the parameters $1, $2 and so on, which is a whole transaction; returns its rows. None, and
        nothing is executed, if its turn does not come within `patience` seconds, as far as the last statement tells.

        Raises ConnectionError if the connection was lost, else what asyncpg raises. After an error that is not the
        statement's own the next call opens another connection."""
        if not await self._take_turn(patience):
            return None
        began, drops = time.monotonic(), self._drops
        try:
            return await self._execute(statement, *values)
        except asyncpg.ReadOnlySQLTransactionError:
            self.drop()  # its server was demoted
            raise
        except asyncpg.PostgresError:
            raise
        except (asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
            self.drop()
            raise ConnectionError(str(error)) from error
        except BaseException as error:
            was_dropped = self._drops > drops
            self.drop()  # a statement may still be under way
            if was_dropped and isinstance(error, Exception):  # between two steps of the driver: an AttributeError
                raise ConnectionError("the connection was dropped during a statement") from error
            raise
        finally:
            if self._drops > drops:
                self.drop()  # also one that was opened just then
            self._lasted = time.monotonic() - began
            self._turn.release()

    async def _execute(self, statement: str, *values: object) -> Sequence[asyncpg.Record]:
        driver = self._driver
        if driver is None or driver.is_closed():
            driver = self._driver = await self._connect(**self._options)
            if not self._is_pooled:
                await driver.execute(_ONE_PLAN)
        rows: Sequence[asyncpg.Record]
        if not self._is_pooled:
            rows = await driver.fetch(statement, *values)
        else:  # the statement is parsed in one round trip and executed in the next: on one server connection
            async with driver.transaction():
                rows = await driver.fetch(statement, *values)
        return rows

    async def _take_turn(self, patience: float | None) -> bool:
        if self._turn.locked() and patience is not None and self._lasted >= patience:
            return False  # the database is far away, or slow
        try:
            async with asyncio.timeout(patience):  # also if it is free: another may wait for it already
                return await self._turn.acquire()
        except TimeoutError:
            return False

    def drop(self) -> None:
        """Ends the connection without a word to the server, which may be silent; also while a statement is under way,
        which then raises ConnectionError or what the driver raises for a lost connection."""
        self._drops += 1
        if self._driver is not None:
            self._driver.terminate()
            self._driver = None

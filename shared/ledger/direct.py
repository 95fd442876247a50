"""A connection beside the pool, for a statement that a process executes hundreds of times a second.

It goes straight to PostgreSQL's driver: SQLAlchemy takes five times as long for a statement as the driver does.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import asyncpg
from sqlalchemy import URL, Dialect

_OF_SQLALCHEMY = ("async_creator_fn", "prepared_statement_cache_size")
"""Arguments of SQLAlchemy that its dialect keeps from the driver."""

_ONE_PLAN = "SET plan_cache_mode = force_generic_plan"
"""Its statement has one good plan, by the indexes. PostgreSQL would make a new one for each of the first executions (76
were seen), which takes more than half as long as the statement itself."""


class DirectConnection:
    """Opened when it is first used, in the same way as those of the pool. One statement runs at a time.

    `arguments`: what the pool's connections are made with, see `shared.ledger.connect`."""

    def __init__(self, dialect: Dialect, url: URL, arguments: Mapping[str, Any], *, is_pooled: bool) -> None:
        _, options = dialect.create_connect_args(url)
        self._connect = arguments["async_creator_fn"]
        self._options = {**options, **{k: v for k, v in arguments.items() if k not in _OF_SQLALCHEMY}}
        self._is_pooled = is_pooled
        self._turn = asyncio.Lock()
        self._driver: asyncpg.Connection | None = None

    async def execute(self, statement: str, *values: object) -> None:
        """One statement with the parameters $1, $2 and so on, which is a whole transaction.

        Raises ConnectionError if the connection was lost, else what asyncpg raises. After an error that is not the
        statement's own the next call opens another connection."""
        async with self._turn:
            try:
                driver = self._driver
                if driver is None or driver.is_closed():
                    driver = self._driver = await self._connect(**self._options)
                    if not self._is_pooled:
                        await driver.execute(_ONE_PLAN)
                if not self._is_pooled:
                    await driver.fetch(statement, *values)
                else:  # the statement is parsed in one round trip and executed in the next: on one server connection
                    async with driver.transaction():
                        await driver.fetch(statement, *values)
            except asyncpg.ReadOnlySQLTransactionError:
                self.drop()  # its server was demoted
                raise
            except asyncpg.PostgresError:
                raise
            except (asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
                self.drop()
                raise ConnectionError(str(error)) from error
            except BaseException:
                self.drop()  # a statement may still be under way
                raise

    def drop(self) -> None:
        """Ends the connection without a word to the server, which may be silent."""
        if self._driver is not None:
            self._driver.terminate()
            self._driver = None

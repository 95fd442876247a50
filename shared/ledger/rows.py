"""Statements that SQLAlchemy does not offer in one form for SQLite and PostgreSQL: row lock, insert-ignore, upsert."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Insert,
    Row,
    Select,
    String,
    TextClause,
    any_,
    bindparam,
    literal,
    true,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import Mapped
from sqlalchemy.sql.dml import ReturningUpdate
from sqlalchemy.types import TypeEngine
from sqlmodel import SQLModel

from shared.ledger.database import Ledger
from shared.ledger.direct import AnyRow

T = TypeVar("T")


def is_one_of(connection: AsyncConnection, column: Mapped[str], values: Sequence[str]) -> ColumnElement[bool]:
    """For PostgreSQL one array: a list would be a new statement for every number of values."""
    if connection.dialect.name == "postgresql":
        return column == any_(literal(list(values), ARRAY(String)))
    return column.in_(values)


def among(
    column: Mapped[T],
    type_: type[TypeEngine[T]],
    name: str,
    make: Callable[[ColumnElement[bool]], Select[*tuple[Any, ...]]],
) -> Mapping[str, Select[*tuple[Any, ...]]]:
    """A constant statement by dialect. `make` is given the condition that `column` is one of the values of `name`.

    For PostgreSQL one array, as `is_one_of`."""
    return {
        "postgresql": make(column == any_(bindparam(name, type_=ARRAY(type_)))),
        "sqlite": make(column.in_(bindparam(name, expanding=True))),
    }


_ALL = "all"


def all_or_among(
    column: Mapped[T], type_: type[TypeEngine[T]], make: Callable[[ColumnElement[bool]], Select[*tuple[Any, ...]]]
) -> Mapping[str, Select[*tuple[Any, ...]]]:
    """`among` the values of `some`, and the statement about all rows: see `read_among`."""
    return {**among(column, type_, "some", make), _ALL: make(true())}


async def read_among(
    ledger: Ledger,
    statements: Mapping[str, Select[*tuple[Any, ...]]],
    some: Collection[object] | None,
    values: Mapping[str, object] | None = None,
) -> Sequence[AnyRow]:
    """The rows of a statement of `all_or_among`. `some` is None: of all."""
    values = values or {}
    if some is None:
        return await ledger.read_alone(statements[_ALL], values)
    return await ledger.read_alone(statements[ledger.dialect], {**values, "some": list(some)})


async def lock(
    connection: AsyncConnection, unchanged: Any, *conditions: ColumnElement[bool] | TextClause, returning: Sequence[Any]
) -> Row[*tuple[Any, ...]] | None:
    """Locks the row that meets the conditions until the transaction ends; None if there is no such row.

    It sets the column `unchanged` to itself, because SQLite has no SELECT FOR UPDATE."""
    return (await connection.execute(locking(unchanged, *conditions, returning=returning))).first()


def locking(
    unchanged: Any, *conditions: ColumnElement[bool] | TextClause, returning: Sequence[Any]
) -> ReturningUpdate[*tuple[Any, ...]]:
    """The statement of `lock`, as a constant of a module: to build it takes as long as to execute it."""
    statement: ReturningUpdate[*tuple[Any, ...]] = (
        update(unchanged.class_).where(*conditions).values({unchanged.key: unchanged}).returning(*returning)
    )
    return statement


def insert_missing(connection: AsyncConnection, model: type[SQLModel]) -> Insert:
    """An INSERT that skips rows whose unique key exists already; `rowcount` is the number of rows inserted.

    Give it rows with `.values()`, or as the parameters of `execute`."""
    statement: Insert = _insert(connection, model).on_conflict_do_nothing()
    return statement


async def upsert(
    connection: AsyncConnection,
    model: type[SQLModel],
    values: Mapping[str, Any],
    *,
    key: Collection[str],
    changes: Collection[str] | None = None,
) -> None:
    """Inserts one row, or updates the row with the same `key`: its columns `changes`, by default all others."""
    if changes is None:
        changes = [name for name in values if name not in key]
    changed = {name: values[name] for name in changes}
    await connection.execute(
        _insert(connection, model).values(**values).on_conflict_do_update(index_elements=[*key], set_=changed)
    )


def _insert(connection: AsyncConnection, model: type[SQLModel]) -> Any:
    return postgresql.insert(model) if connection.dialect.name == "postgresql" else sqlite.insert(model)

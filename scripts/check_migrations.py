"""Fails if the models changed without a migration, or if a migration would break the previous release.

During an update the previous release works on the new schema, so a migration only adds.
"""

import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from shared.ledger import migrate


@dataclass(frozen=True, slots=True)
class Table:
    """What the previous release relies on: columns by name, unique constraints, foreign keys."""

    columns: Mapping[str, Any]
    unique: frozenset[tuple[str, ...]]
    foreign: frozenset[tuple[str, ...]]
    checks: frozenset[str]


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        url = f"sqlite+aiosqlite:///{path}"
        problems: list[str] = []
        before: Mapping[str, Table] = {}
        for revision in migrate.revisions():
            migrate.upgrade(url, revision)
            after = schema(f"sqlite:///{path}")
            problems += [f"migration {revision}: {problem}" for problem in breaking(before, after)]
            before = after
        migrate.check(url)
    sys.stderr.writelines(f"{problem}\n" for problem in problems)
    return 1 if problems else 0


def schema(url: str) -> Mapping[str, Table]:
    """The tables of a database, by name. The URL must name a synchronous driver."""
    engine = sa.create_engine(url)
    try:
        look = sa.inspect(engine)
        return {name: _table(look, name) for name in look.get_table_names() if name != "alembic_version"}
    finally:
        engine.dispose()


def breaking(before: Mapping[str, Table], after: Mapping[str, Table]) -> Iterator[str]:
    """Differences in `after` that break a release which knows only `before`."""
    for name, old in before.items():
        new = after.get(name)
        if new is None:
            yield f"table {name} is gone or has another name"
            continue
        for column, was in old.columns.items():
            now = new.columns.get(column)
            if now is None:
                yield f"{name}.{column} is gone or has another name"
            elif str(now["type"]) != str(was["type"]):
                yield f"{name}.{column} was {was['type']} and becomes {now['type']}"
            elif was["nullable"] and not now["nullable"]:
                yield f"{name}.{column} may not be NULL any more"
            elif was["default"] is not None and now["default"] is None and not now["nullable"]:
                yield f"{name}.{column} has lost its default"
        for column, now in new.columns.items():
            if column not in old.columns and not now["nullable"] and now["default"] is None:
                yield f"{name}.{column} is new, NOT NULL and without a default"
        for what, were, are in (
            ("unique over", old.unique, new.unique),
            ("a foreign key of", old.foreign, new.foreign),
            ("checked for", old.checks, new.checks),
        ):
            yield from (f"{name} is newly {what} {', '.join(rule)}" for rule in sorted(map(_words, are - were)))


def _words(rule: tuple[str, ...] | str) -> tuple[str, ...]:
    return (rule,) if isinstance(rule, str) else rule


def _table(look: sa.Inspector, name: str) -> Table:
    indexes = {
        tuple(str(column) for column in index["column_names"]) for index in look.get_indexes(name) if index["unique"]
    }
    constraints = {tuple(constraint["column_names"]) for constraint in look.get_unique_constraints(name)}
    return Table(
        columns={column["name"]: column for column in look.get_columns(name)},
        unique=frozenset(indexes | constraints),
        foreign=frozenset(tuple(key["constrained_columns"]) for key in look.get_foreign_keys(name)),
        checks=frozenset(str(check["sqltext"]) for check in look.get_check_constraints(name)),
    )


if __name__ == "__main__":
    sys.exit(main())

"""A migration that would break the previous release is refused; one that only adds passes."""

import sqlite3
from pathlib import Path

import pytest

from scripts.check_migrations import breaking, schema

BEFORE = """
CREATE TABLE parent (id INTEGER PRIMARY KEY);
CREATE TABLE thing (id INTEGER PRIMARY KEY, name VARCHAR(20) NOT NULL DEFAULT '', note TEXT, parent_id INTEGER);
"""
CHANGES = {
    "ALTER TABLE thing RENAME TO object": ["table thing is gone or has another name"],
    "ALTER TABLE thing DROP COLUMN note": ["thing.note is gone or has another name"],
    "ALTER TABLE thing RENAME COLUMN note TO remark": ["thing.note is gone or has another name"],
    "CREATE UNIQUE INDEX once ON thing (name)": ["thing is newly unique over name"],
    "ALTER TABLE thing ADD COLUMN size INTEGER": [],
    "ALTER TABLE thing ADD COLUMN size INTEGER NOT NULL DEFAULT 0": [],
    "CREATE INDEX by_name ON thing (name)": [],
    "CREATE TABLE other (id INTEGER PRIMARY KEY, size INTEGER NOT NULL)": [],
}
REMADE = {
    "name VARCHAR(20) NOT NULL DEFAULT '', note TEXT NOT NULL, parent_id INTEGER": [
        "thing.note may not be NULL any more"
    ],
    "name VARCHAR(10) NOT NULL DEFAULT '', note TEXT, parent_id INTEGER": [
        "thing.name was VARCHAR(20) and becomes VARCHAR(10)"
    ],
    "name VARCHAR(20) NOT NULL, note TEXT, parent_id INTEGER": ["thing.name has lost its default"],
    "name VARCHAR(20) NOT NULL DEFAULT '', note TEXT, parent_id INTEGER, size INTEGER NOT NULL": [
        "thing.size is new, NOT NULL and without a default"
    ],
    "name VARCHAR(20) NOT NULL DEFAULT '', note TEXT, parent_id INTEGER REFERENCES parent(id)": [
        "thing is newly a foreign key of parent_id"
    ],
    "name VARCHAR(20) NOT NULL DEFAULT '', note TEXT, parent_id INTEGER, CHECK (name <> 'x')": [
        "thing is newly checked for name <> 'x'"
    ],
}


@pytest.mark.parametrize(
    ("change", "problems"),
    [
        *CHANGES.items(),
        *(
            (f"DROP TABLE thing; CREATE TABLE thing (id INTEGER PRIMARY KEY, {columns})", problems)
            for columns, problems in REMADE.items()
        ),
    ],
)
def test_changes_that_break_the_previous_release_are_found(tmp_path: Path, change: str, problems: list[str]) -> None:
    path = tmp_path / "schema.db"
    database = sqlite3.connect(path)
    database.executescript(BEFORE)
    before = schema(f"sqlite:///{path}")
    database.executescript(change)
    assert list(breaking(before, schema(f"sqlite:///{path}"))) == problems
    database.close()

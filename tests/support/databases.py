"""New ledgers: copies of one that is migrated once per run."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from uuid import uuid4

from shared.ledger import migrate
from tests.support.run import TestRun

POSTGRES_TEMPLATE = "migrated"
SQLITE_TEMPLATE = "migrated.db"


def sqlite_url(path: Path) -> str:
    return f"sqlite+aiosqlite:///{path}"


@contextmanager
def empty_sqlite(folder: Path) -> Iterator[str]:
    """The URL of a SQLite file that does not exist yet."""
    yield sqlite_url(folder / "ledger.db")


@contextmanager
def empty_postgres(run: TestRun) -> Iterator[str]:
    """The URL of a PostgreSQL database without tables, dropped after the block."""
    postgres = run.postgres()
    name = f"test_{uuid4().hex[:12]}"
    try:
        yield postgres.create_database(name)
    finally:
        postgres.drop_database(name)


@contextmanager
def migrated_sqlite(run: TestRun, folder: Path) -> Iterator[str]:
    """The URL of a SQLite ledger with the schema at head."""
    template = run.folder / SQLITE_TEMPLATE
    with run.lock("sqlite-template"):
        if not template.exists():
            draft = template.with_suffix(".draft")
            migrate.upgrade(sqlite_url(draft))
            draft.rename(template)
    ledger = folder / "ledger.db"
    shutil.copyfile(template, ledger)
    yield sqlite_url(ledger)


@contextmanager
def through_pgbouncer(run: TestRun) -> Iterator[str]:
    """As `migrated_postgres`, but clients go through pgbouncer."""
    with migrated_postgres(run) as url:
        yield run.pgbouncer().url(run.postgres(), url.rpartition("/")[2])


@contextmanager
def migrated_postgres(run: TestRun) -> Iterator[str]:
    """The URL of a PostgreSQL ledger with the schema at head, dropped after the block."""
    postgres = run.postgres()
    _make_template(run)
    name = f"test_{uuid4().hex[:12]}"
    try:
        yield postgres.create_database(name, template=POSTGRES_TEMPLATE)
    finally:
        postgres.drop_database(name)


@cache
def _make_template(run: TestRun) -> None:
    """Makes it once per run; a worker asks once."""
    postgres = run.postgres()
    with run.lock("postgres-template"):
        if not postgres.has_database(POSTGRES_TEMPLATE):
            migrate.upgrade(postgres.create_database(f"{POSTGRES_TEMPLATE}_draft"))
            postgres.query(f'ALTER DATABASE "{POSTGRES_TEMPLATE}_draft" RENAME TO "{POSTGRES_TEMPLATE}"')

"""Migrations: Alembic makes them for `vashsender db upgrade`; the readiness check only compares revisions, and so a
service does not import it."""

import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import inspect, text
from sqlalchemy.ext.asyncio import AsyncConnection

if TYPE_CHECKING:
    from alembic.config import Config

MIGRATIONS = Path(__file__).parent / "migrations"


def _config(url: str) -> "Config":
    from alembic.config import Config

    config = Config(stdout=sys.stdout)  # not that of the moment in which Alembic was imported
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["url"] = url
    return config


def upgrade(url: str, revision: str = "head") -> None:
    """Migrates the schema to `revision`; at the newest one, also grants the services' roles their rights.

    Blocks, and must not run in an event loop. The URL names an async driver."""
    from alembic import command

    config = _config(url)
    config.attributes["grant"] = revision == "head"
    command.upgrade(config, revision)


def downgrade(url: str, revision: str) -> None:
    """Migrates the schema back to `revision`; `base` is an empty database. Blocks."""
    from alembic import command

    command.downgrade(_config(url), revision)


def check(url: str) -> None:
    """Raises alembic.util.exc.CommandError if the models have changes that no migration has."""
    from alembic import command

    command.check(_config(url))


def head() -> str:
    """The revision that this code expects."""
    return revisions()[-1]


@cache
def revisions() -> tuple[str, ...]:
    """All revisions, oldest first: each file is named after its own."""
    return tuple(sorted(path.name.partition("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py")))


def suits(revision: str | None) -> bool:
    """Whether this code works with a schema at `revision`: its own, or a later one that it does not know.

    Migrations only add, so the previous release keeps working while the next one is being started."""
    return revision is not None and (revision == head() or revision not in revisions())


async def current(connection: AsyncConnection) -> str | None:
    """The revision of the database; None if it is empty."""
    if not await connection.run_sync(lambda sync: inspect(sync).has_table("alembic_version")):
        return None
    revision: str | None = await connection.scalar(text("SELECT version_num FROM alembic_version"))
    return revision

"""Alembic, called from `vashsender db upgrade`, `db check` and the readiness check."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.ext.asyncio import AsyncConnection

MIGRATIONS = Path(__file__).parent / "migrations"


def _config(url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["url"] = url
    return config


def upgrade(url: str, revision: str = "head") -> None:
    """Migrates the schema to `revision`; at the newest one, also grants the services' roles their rights.

    Blocks, and must not run in an event loop. The URL names an async driver."""
    config = _config(url)
    config.attributes["grant"] = revision == "head"
    command.upgrade(config, revision)


def downgrade(url: str, revision: str) -> None:
    """Migrates the schema back to `revision`; `base` is an empty database. Blocks."""
    command.downgrade(_config(url), revision)


def check(url: str) -> None:
    """Raises alembic.util.exc.CommandError if the models have changes that no migration has."""
    command.check(_config(url))


def head() -> str:
    """The revision that this code expects."""
    revision = ScriptDirectory(str(MIGRATIONS)).get_current_head()
    assert revision is not None
    return revision


def revisions() -> list[str]:
    """All revisions, oldest first."""
    return [script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions()][::-1]


def suits(revision: str | None) -> bool:
    """Whether this code works with a schema at `revision`: its own, or a later one that it does not know.

    Migrations only add, so the previous release keeps working while the next one is being started."""
    return revision is not None and (revision == head() or revision not in revisions())


async def current(connection: AsyncConnection) -> str | None:
    """The revision of the database; None if it is empty."""
    return await connection.run_sync(lambda sync: MigrationContext.configure(sync).get_current_revision())

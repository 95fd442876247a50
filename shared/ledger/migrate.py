"""Alembic, driven from the program: `vashsender db upgrade`, `db check` and the readiness check."""

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
    """Brings the schema to `revision`, and the services' roles to their rights where it is the newest. Blocking, and
    needs no running event loop. The URL names an async driver."""
    config = _config(url)
    config.attributes["grant"] = revision == "head"
    command.upgrade(config, revision)


def downgrade(url: str, revision: str) -> None:
    """Takes the schema back to `revision`; `base` is an empty database. Blocking."""
    command.downgrade(_config(url), revision)


def check(url: str) -> None:
    """Raises alembic.util.exc.CommandError when the models have changed and no migration says so."""
    command.check(_config(url))


def head() -> str:
    """The revision this code expects."""
    revision = ScriptDirectory(str(MIGRATIONS)).get_current_head()
    assert revision is not None
    return revision


def revisions() -> list[str]:
    """Every revision, the first one first."""
    return [script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions()][::-1]


def suits(revision: str | None) -> bool:
    """Whether this code works on a schema at `revision`: its own, or a later one that it cannot know. Migrations only
    ever add, so that processes of the previous release go on while those of the next one come."""
    return revision is not None and (revision == head() or revision not in revisions())


async def current(connection: AsyncConnection) -> str | None:
    """The revision the database is at; None for an empty one."""
    return await connection.run_sync(lambda sync: MigrationContext.configure(sync).get_current_revision())

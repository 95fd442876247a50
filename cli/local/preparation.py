"""What has to be there before services can work: the schema, the topology, a first API key."""

import asyncio

from cli import access
from cli.local.readiness import relative
from cli.local.secret_files import write_private
from cli.settings import LocalSettings
from shared import topology
from shared.ledger import migrate


def upgrade_database(config: LocalSettings) -> str:
    """Brings the schema to the newest revision and says what was done. One that a later version has made is left as it
    is: this version works on it, so going back to it needs no way back for the data."""
    where = "PostgreSQL" if config.ledger_url.startswith("postgresql") else "SQLite"
    before = asyncio.run(access.revision(config))
    head = migrate.head()
    if before == head and where == "SQLite":
        return f"{where}, already at {head}"
    if before != head and migrate.suits(before):
        return f"{where}, left at {before}, which is newer than this version's {head}"
    config.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    migrate.upgrade(config.ledger_url)  # at the newest, too: roles made since then get their rights
    if before == head:
        return f"{where}, already at {head}"
    return f"{where}, upgraded from {before or 'nothing'} to {head}"


def declare_topology(url: str) -> str:
    """Declares it with the account that may, and says what."""
    asyncio.run(access.declare(url))
    return f"declared: {', '.join(queue.name for queue in topology.QUEUES)}, {topology.DEAD}"


def first_key(config: LocalSettings) -> str:
    """Makes an API key unless the one in the file holds, and says where it is."""
    path = config.secrets_dir / "api_key"
    if path.exists():
        if asyncio.run(access.knows_key(config, path.read_text().strip())):
            return f"already in {relative(path)}"
        # It belongs to another ledger, or was revoked: kept, since nobody could read it again.
        path.replace(path.with_name("api_key.previous"))
    secret = asyncio.run(access.create_key(config, "first"))
    config.secrets_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(path, secret + "\n")
    return f"written to {relative(path)}, which only you can read"

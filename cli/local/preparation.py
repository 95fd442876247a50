"""What services need before they can work: the schema, the topology and a first API key."""

import asyncio

from cli import access, tenants
from cli.local.programs import unsubscribe_key_file
from cli.local.readiness import relative
from cli.settings import LocalSettings
from shared import topology
from shared.ledger import migrate
from shared.secret_files import private_folder, write_private
from shared.signing import Use, derived_key


def upgrade_database(config: LocalSettings) -> str:
    """Upgrades the schema to the newest revision and returns what was done, in words. Leaves the schema of a later
    version as it is: this version works with it, so going back to an older version needs no downgrade."""
    where = "PostgreSQL" if config.ledger_url.startswith("postgresql") else "SQLite"
    before = asyncio.run(access.revision(config))
    head = migrate.head()
    if before == head and where == "SQLite":
        return f"{where}, already at {head}"
    if before != head and migrate.suits(before):
        return f"{where}, left at {before}, which is newer than this version's {head}"
    config.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    migrate.upgrade(config.ledger_url)  # even at the newest revision: new roles get their rights
    if before == head:
        return f"{where}, already at {head}"
    return f"{where}, upgraded from {before or 'nothing'} to {head}"


def declare_topology(url: str) -> str:
    """Declares the topology and returns what was declared, in words."""
    asyncio.run(access.declare(url))
    return f"declared: {', '.join(queue.name for queue in topology.QUEUES)}, {topology.DEAD}"


def leave_signing_key(config: LocalSettings) -> None:
    """Derives the key of tokens from the installation's secrets and leaves it in a file: senders and feedback get no
    other key. The first one signs."""
    private_folder(config.secrets_dir)
    keys = b",".join(derived_key(secret, Use.UNSUBSCRIBE) for secret in config.secret_keys)
    write_private(unsubscribe_key_file(config), keys.decode() + "\n")


def first_key(config: LocalSettings) -> str:
    """Creates an API key unless the one in the file is valid, and returns where it is, in words."""
    path = config.secrets_dir / "api_key"
    if path.exists():
        if asyncio.run(access.knows_key(config, path.read_text().strip())):
            return f"already in {relative(path)}"
        # The key belongs to another ledger or was revoked. Keep it: it cannot be shown again.
        path.replace(path.with_name("api_key.previous"))
    secret = asyncio.run(tenants.create_key(config, tenants.KeyWish("first")))
    private_folder(config.secrets_dir)
    write_private(path, secret + "\n")
    return f"written to {relative(path)}, which only you can read"

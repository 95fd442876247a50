"""Creates the accounts of `vashsender access new` on the shared broker and a PostgreSQL cluster."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import httpx

from cli import access_files
from cli.access_files import MIGRATE, Servers
from cli.access_rights import SERVICES, VHOST
from cli.local.broker import PrivateBroker
from cli.local.ports import LOOPBACK
from cli.local.postgres import OWNER, PrivatePostgres
from shared.ledger import migrate
from shared.reception import ADMIN
from shared.settings import CommonSettings


@dataclass(frozen=True)
class Accounts:
    """URLs by role. On the shared broker, accounts and virtual host have a prefix that is unique to the test."""

    folder: Path
    prefix: str

    def amqp_url(self, role: str) -> str:
        text = (self.folder / f"{role}_amqp_url").read_text()
        return text.replace("//vashsender_", f"//{self.prefix}_").replace(f"/{VHOST}", f"/{self.prefix}")

    def database_url(self, role: str) -> str:
        return (self.folder / f"{role}_database_url").read_text()

    def service_settings(self) -> dict[str, dict[str, str]]:
        """The settings of each service."""
        return {
            service: {"amqp_url": self.amqp_url(service), "database_url": self.database_url(service)}
            for service in SERVICES
        }

    @property
    def admin_url(self) -> str:
        return self.amqp_url(ADMIN)

    @property
    def owner_url(self) -> str:
        """The database URL of the role that owns the schema, including the driver."""
        return CommonSettings(database_url=self.database_url(MIGRATE)).ledger_url


@contextmanager
def accounts(folder: Path, broker: PrivateBroker, postgres: PrivatePostgres) -> Iterator[Accounts]:
    """Every account, and a migrated ledger. `postgres` must be this test's alone, as roles belong to a cluster."""
    access_files.write(folder, Servers(f"{LOOPBACK}:{broker.amqp_port}", f"{LOOPBACK}:{postgres.port}"))
    made = Accounts(folder, f"test{uuid4().hex[:8]}")
    apply(made, broker, postgres)
    migrate.upgrade(made.owner_url)
    try:
        yield made
    finally:
        with _broker_api(broker) as api:
            api.delete(f"/vhosts/{made.prefix}").raise_for_status()
            users = [user["name"] for user in _definitions(made)["users"]]
            api.post("/users/bulk-delete", json={"users": users}).raise_for_status()


def apply(made: Accounts, broker: PrivateBroker, postgres: PrivatePostgres) -> None:
    """Applies both files to their servers, initially or after a password was renewed."""
    run_sql(postgres, made.folder / access_files.ROLES_SQL)
    with _broker_api(broker) as api:
        api.post("/definitions", json=_definitions(made)).raise_for_status()


def run_sql(postgres: PrivatePostgres, script: Path) -> None:
    """Runs a script through psql as the superuser, as the image of PostgreSQL does at its first start."""
    subprocess.run(
        ["psql", "-XqAt", "-f", str(script)],
        env={
            "PATH": os.environ.get("PATH", ""),
            "PGHOST": LOOPBACK,
            "PGPORT": str(postgres.port),
            "PGUSER": OWNER,
            "PGPASSWORD": postgres.password,
            "PGDATABASE": "postgres",
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        check=True,
    )


def _definitions(made: Accounts) -> dict[str, list[dict[str, str]]]:
    definitions: dict[str, list[dict[str, str]]] = json.loads((made.folder / access_files.DEFINITIONS).read_text())
    for entries in definitions.values():
        for entry in entries:
            for key in ("user", "name", "vhost"):
                if key in entry:
                    entry[key] = entry[key].replace(VHOST, made.prefix)
    return definitions


def _broker_api(broker: PrivateBroker) -> httpx.Client:
    auth = (urlsplit(broker.amqp_url("admin")).username or "", broker.password("admin"))
    return httpx.Client(base_url=f"{broker.management_url}/api", auth=auth, timeout=30, trust_env=False)

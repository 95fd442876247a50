"""A PostgreSQL primary with a synchronous standby, to lose the primary and promote the standby."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlencode

from cli.local.ports import LOOPBACK
from cli.local.postgres import OWNER, PrivatePostgres, binaries
from cli.local.postgres_user import as_server_user, give
from shared.secret_files import write_private
from tests.support.run import TestRun

SYNCHRONOUS_SECONDS = 60.0
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Pair:
    """Two clusters. Commits on the primary wait until the standby has them on its disk."""

    primary: PrivatePostgres
    standby: PrivatePostgres

    def url(self, database: str, **options: str) -> str:
        """The URL that names both."""
        hosts = "&".join(f"host={LOOPBACK}:{cluster.port}" for cluster in (self.primary, self.standby))
        query = urlencode({"target_session_attrs": "read-write", **options}, safe="/")
        return f"postgresql+asyncpg://{OWNER}:{self.primary.password}@/{database}?{hosts}&{query}"

    def promote(self) -> None:
        """Returns once the standby takes writes. It waits for no standby then: it has none."""
        self.standby.query("SELECT pg_promote()")


@contextmanager
def new_pair(run: TestRun, name: str) -> Iterator[Pair]:
    """Both running, and replication synchronous."""
    primary, standby = run.new_postgres(f"{name}-1"), run.new_postgres(f"{name}-2")
    try:
        primary.start()
        primary.wait_ready()
        _copy(primary, standby)
        standby.start()
        standby.wait_ready()
        for statement in ("ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()"):
            primary.query(statement)
        _wait_synchronous(primary)
        yield Pair(primary, standby)
    finally:
        standby.stop()
        primary.stop()


def _copy(primary: PrivatePostgres, standby: PrivatePostgres) -> None:
    standby.data_dir.mkdir(parents=True, mode=0o755)
    write_private(standby.data_dir / "password", primary.password)
    standby.cluster.mkdir(mode=0o700)
    give(standby.cluster)
    source = f"host={LOOPBACK} port={primary.port} user={OWNER} password={primary.password}"
    command = [str(binaries() / "pg_basebackup"), "-D", str(standby.cluster), "-R", "-X", "stream", "-c", "fast"]
    done = subprocess.run(
        as_server_user(standby.cluster, [*command, "--no-sync", "-d", source]),
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def _wait_synchronous(primary: PrivatePostgres) -> None:
    deadline = time.monotonic() + SYNCHRONOUS_SECONDS
    while primary.query("SELECT sync_state FROM pg_stat_replication") != "sync":
        assert time.monotonic() < deadline, "the standby does not follow"
        time.sleep(POLL_SECONDS)

"""pgbouncer in transaction mode, in front of a private PostgreSQL."""

import contextlib
import subprocess
import time
from pathlib import Path

import psutil

from cli.local.ports import LOOPBACK, free_port
from cli.local.postgres import PrivatePostgres
from cli.local.postgres_user import as_server_user, give
from shared.ledger.connect import LOST_CLIENT, POSTGRESQL_PLANS

PROGRAM = "/usr/sbin/pgbouncer"
ROLE = "pooled"
START_SECONDS = 30.0
STOP_SECONDS = 10.0
POLL_SECONDS = 0.05
# Each transaction of a client goes to another server connection, so what needs a session fails at once.
CONFIGURATION = """\
[databases]
* = host={host} port={server_port}

[pgbouncer]
listen_addr = {host}
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {folder}/users.txt
pidfile = {folder}/pid
logfile = {folder}/log
pool_mode = transaction
server_round_robin = 1
max_client_conn = 1000
default_pool_size = 12
server_idle_timeout = 10
"""


class Pgbouncer:
    """One process, with its files in one folder. The constructor does nothing yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, postgres: PrivatePostgres) -> None:
        """Starts it unless it runs, with a role whose settings the planner needs. Returns once it accepts clients."""
        if self._process() is not None:
            return
        if not postgres.query(f"SELECT 1 FROM pg_roles WHERE rolname = '{ROLE}'"):
            postgres.query(f"CREATE ROLE {ROLE} SUPERUSER LOGIN PASSWORD '{postgres.password}'")
            for name, value in {**POSTGRESQL_PLANS, **LOST_CLIENT}.items():
                postgres.query(f"ALTER ROLE {ROLE} SET {name} = '{value}'")
        self.folder.mkdir(exist_ok=True)
        port = free_port()
        text = CONFIGURATION.format(host=LOOPBACK, server_port=postgres.port, port=port, folder=self.folder)
        files = {"pgbouncer.ini": text, "users.txt": f'"{ROLE}" "{postgres.password}"\n', "port": str(port)}
        for name, content in files.items():
            (self.folder / name).write_text(content)
            give(self.folder / name)
        give(self.folder)
        command = as_server_user(self.folder, [PROGRAM, "-q", "-d", str(self.folder / "pgbouncer.ini")])
        subprocess.run(command, cwd="/", stdin=subprocess.DEVNULL, check=True)
        deadline = time.monotonic() + START_SECONDS
        while self._process() is None:
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(POLL_SECONDS)

    def url(self, postgres: PrivatePostgres, database: str) -> str:
        """The URL of a database through it."""
        port = (self.folder / "port").read_text()
        account = f"{ROLE}:{postgres.password}"
        return f"postgresql+asyncpg://{account}@{LOOPBACK}:{port}/{database}?pooler=transaction"

    def stop(self) -> None:
        """Ends it at once. Does nothing if it is not running."""
        process = self._process()
        if process is not None:
            process.terminate()
            with contextlib.suppress(psutil.TimeoutExpired):
                process.wait(STOP_SECONDS)

    def _process(self) -> psutil.Process | None:
        try:
            process = psutil.Process(int((self.folder / "pid").read_text()))
            return process if process.name() == "pgbouncer" and process.is_running() else None
        except (OSError, ValueError, psutil.Error):
            return None

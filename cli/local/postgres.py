"""A private PostgreSQL cluster: for any user, on loopback only, with all its files in one folder.

`python -m cli.local.postgres start FOLDER` starts one and prints the URL of its database `vashsender`; `stop FOLDER`
stops it.
"""

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from string import Template

import psutil

from cli.local import LocalError, NotReadyError
from cli.local.background import end_of_log, start_in_background
from cli.local.ports import LOOPBACK, refuse_taken
from cli.local.postgres_user import as_server_user, give
from shared.secret_files import secret_in, write_private

INSTALLATIONS = Path("/usr/lib/postgresql")
TEMPLATE = Path(__file__).with_name("files") / "postgresql.conf"
OWN_CONFIGURATION = "vashsender.conf"
OWNER = "vashsender"
START_TIMEOUT_SECONDS = 60.0
STOP_TIMEOUT_SECONDS = 30.0
KILL_TIMEOUT_SECONDS = 5.0
POLL_SECONDS = 0.02


class PrivatePostgres:
    """One cluster. The constructor does nothing yet. If root starts it, it runs as `postgres`.

    `durable=False` turns fsync off: data survives a killed server but not a power cut. For tests, never for measuring.
    """

    def __init__(self, data_dir: Path, port: int, *, durable: bool = True) -> None:
        self.data_dir = data_dir.absolute()
        self.port = port
        self.durable = durable
        self.cluster = self.data_dir / "cluster"
        self.log = self.data_dir / "postgresql.log"

    # Addresses and databases

    def url(self, database: str = "postgres") -> str:
        """The SQLAlchemy URL of a database, with the password."""
        return f"postgresql+asyncpg://{OWNER}:{self.password}@{LOOPBACK}:{self.port}/{database}"

    @property
    def password(self) -> str:
        return secret_in(self.data_dir / "password")

    def create_database(self, name: str, template: str | None = None) -> str:
        """Creates a database, as a copy of `template` if given (which must have no clients), and returns its URL."""
        self.query(f'CREATE DATABASE "{name}"' + (f' TEMPLATE "{template}"' if template else ""))
        return self.url(name)

    def has_database(self, name: str) -> bool:
        return bool(self.query(f"SELECT 1 FROM pg_database WHERE datname = '{name}'"))

    def drop_database(self, name: str) -> None:
        """Drops a database even if clients are connected."""
        self.query(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def query(self, statement: str, database: str = "postgres") -> str:
        """Runs one statement through psql. Returns rows without a heading, columns separated by `|`."""
        done = subprocess.run(
            [str(binaries() / "psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", "-c", statement],
            env={
                "PATH": os.environ.get("PATH", ""),
                "PGHOST": LOOPBACK,
                "PGPORT": str(self.port),
                "PGUSER": OWNER,
                "PGPASSWORD": self.password,
                "PGDATABASE": database,
                "PGCONNECT_TIMEOUT": "10",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise LocalError(f"the private PostgreSQL refused a statement: {done.stderr.strip()}")
        return done.stdout.strip()

    # Starting and stopping

    @property
    def is_running(self) -> bool:
        return self._postmaster() is not None

    def start(self) -> None:
        """Starts the cluster in the background unless it is running. The first start creates it.

        Raises PortTakenError, which names port and process, and LocalError if PostgreSQL is not installed."""
        if self.is_running:
            return
        self.prepare()
        with self.log.open("ab") as log:
            start_in_background(self.command(), Path("/"), log, _environment())

    def prepare(self) -> None:
        """Checks program and port, creates the cluster if there is none, and writes its configuration."""
        binaries()
        refuse_taken({"private PostgreSQL": self.port})
        self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o755)
        if not (self.cluster / "PG_VERSION").exists():
            self._initialise()
        if self._postmaster() is None:
            # PostgreSQL would take a killed postmaster that was not reaped for a running one.
            (self.cluster / "postmaster.pid").unlink(missing_ok=True)
        configuration = Template(TEMPLATE.read_text()).substitute(
            port=self.port, durable="on" if self.durable else "off"
        )
        own = self.cluster / OWN_CONFIGURATION
        own.write_text(configuration)
        give(own)

    def command(self) -> list[str]:
        """The command for a supervisor, after `prepare`: runs in the foreground, stops on SIGINT (fast shutdown)."""
        return as_server_user(self.cluster, [str(binaries() / "postgres"), "-D", str(self.cluster)])

    def wait_ready(self, timeout_seconds: float = START_TIMEOUT_SECONDS) -> None:
        """Returns once the cluster answers. Raises NotReadyError with the end of the log, at once if it has ended."""
        deadline = time.monotonic() + timeout_seconds
        seen = False
        while not self._answers():
            running = self.is_running
            if seen and not running:
                raise NotReadyError(f"the private PostgreSQL ended while starting: {end_of_log(self.log)}")
            if time.monotonic() > deadline:
                raise NotReadyError(
                    f"the private PostgreSQL is not ready in {timeout_seconds:g} s: {end_of_log(self.log)}"
                )
            seen = seen or running
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """Shuts down fast: rolls open transactions back and keeps committed ones. Does nothing if it is not running."""
        postmaster = self._postmaster()
        if postmaster is None:
            return
        family = _family(postmaster)
        postmaster.send_signal(signal.SIGINT)
        if not _wait_gone(family, STOP_TIMEOUT_SECONDS):
            self.kill()

    def kill(self) -> None:
        """Sends SIGKILL to every process of the cluster, like a crash of the machine. Returns once they are gone."""
        postmaster = self._postmaster()
        if postmaster is None:
            return
        family = _family(postmaster)
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if not _wait_gone(family, KILL_TIMEOUT_SECONDS):
            raise LocalError(f"the private PostgreSQL (pid {postmaster.pid}) survives SIGKILL: end it by hand")

    def restart(self, timeout_seconds: float = START_TIMEOUT_SECONDS) -> None:
        """Stops it, starts it, and waits until it is ready."""
        self.stop()
        self.start()
        self.wait_ready(timeout_seconds)

    # Helpers

    def _initialise(self) -> None:
        self.cluster.mkdir(exist_ok=True, mode=0o700)
        give(self.cluster)
        password_file = self.data_dir / "initial-password"
        write_private(password_file, self.password)
        give(password_file)
        options = ["--username", OWNER, "--pwfile", str(password_file), "--auth", "scram-sha-256"]
        options += ["--encoding", "UTF8", "--locale", "C.UTF-8", "--no-instructions"]
        if not self.durable:
            options.append("--no-sync")
        done = subprocess.run(
            as_server_user(self.cluster, [str(binaries() / "initdb"), "-D", str(self.cluster), *options]),
            env=_environment(),
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        password_file.unlink()
        if done.returncode:
            raise LocalError(f"initdb cannot make a PostgreSQL cluster in {self.cluster}: {done.stderr.strip()}")
        with (self.cluster / "postgresql.conf").open("a") as file:
            file.write(f"\ninclude '{OWN_CONFIGURATION}'\n")

    def _postmaster(self) -> psutil.Process | None:
        try:
            pid = int((self.cluster / "postmaster.pid").read_text().split()[0])
            process = psutil.Process(pid)
            return process if process.name() == "postgres" and process.status() != psutil.STATUS_ZOMBIE else None
        except (OSError, ValueError, IndexError, psutil.Error):
            return None

    def _answers(self) -> bool:
        probe = [str(binaries() / "pg_isready"), "-q", "-h", LOOPBACK, "-p", str(self.port), "-t", "2"]
        return subprocess.run(probe, stdin=subprocess.DEVNULL, check=False).returncode == 0


def binaries() -> Path:
    """The programs of the newest PostgreSQL on this machine."""
    found = sorted(INSTALLATIONS.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    elsewhere = shutil.which("initdb")
    if elsewhere is None:
        raise LocalError("PostgreSQL is not installed; run: apt-get install postgresql")
    return Path(elsewhere).resolve().parent


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LANG": "C.UTF-8"}


def _family(postmaster: psutil.Process) -> list[psutil.Process]:
    try:
        return [postmaster, *postmaster.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _wait_gone(processes: Sequence[psutil.Process], timeout_seconds: float) -> bool:
    """Zombies count as gone: in a container there may be no process to reap them."""
    deadline = time.monotonic() + timeout_seconds
    while any(_lives(process) for process in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def main() -> int:
    parser = argparse.ArgumentParser(description="Run a private PostgreSQL cluster in the background.")
    parser.add_argument("verb", choices=("start", "stop"))
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--port", type=int, default=8708)
    given = parser.parse_args()
    postgres = PrivatePostgres(given.data_dir, given.port)
    try:
        if given.verb == "stop":
            postgres.stop()
            return 0
        postgres.start()
        postgres.wait_ready()
        if not postgres.has_database(OWNER):
            postgres.create_database(OWNER)
        sys.stdout.write(f"{postgres.url(OWNER)}\n")
    except LocalError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

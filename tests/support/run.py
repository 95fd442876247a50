"""One test run: the folder its servers live in, shared by all its pytest-xdist workers.

Whoever needs a server first starts it, under a lock; the process that controls the run stops whatever was started,
after failures and Ctrl-C too. A run that was killed outright is cleaned up by the next one.
"""

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import IO

from cli.local.broker import PrivateBroker
from cli.local.ports import free_port, free_ports
from cli.local.postgres import PrivatePostgres
from tests.support.other_rabbitmq import broker_at

RUNS = Path(__file__).parents[2] / "var" / "test"
BROKER_PORTS = 5


class TestRun:
    """The servers of one run. `folder` is `var/test/run-...`, locked as long as the controlling process lives."""

    __test__ = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._sign_of_life: IO[str] | None = None

    @classmethod
    def new(cls) -> "TestRun":
        """The run this process controls."""
        RUNS.mkdir(parents=True, exist_ok=True)
        with (RUNS / "runs.lock").open("w") as runs:
            fcntl.flock(runs, fcntl.LOCK_EX)
            for folder in RUNS.glob("run-*"):
                killed = cls(folder)
                if killed._lock_life():
                    killed.end()
            run = cls(Path(mkdtemp(prefix="run-", dir=RUNS)))
            # The server's user, who is not root, keeps its cluster in here.
            run.folder.chmod(0o711)
            run._lock_life()
        return run

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """One worker at a time."""
        with (self.folder / f"{name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def broker(self) -> PrivateBroker:
        """The run's broker, ready; started by the first who asks."""
        with self.lock("broker"):
            broker = self._known_broker("broker")
            if broker is None:
                broker = self.new_broker("broker")
                broker.start()
            broker.wait_ready()
        return broker

    def postgres(self) -> PrivatePostgres:
        """The run's PostgreSQL, ready; started by the first who asks."""
        with self.lock("postgres"):
            postgres = self._known_postgres("postgres")
            if postgres is None:
                postgres = self.new_postgres("postgres")
                postgres.start()
            postgres.wait_ready()
        return postgres

    def new_broker(self, name: str) -> PrivateBroker:
        """Another broker, not yet started. The run stops it at its end if nobody has."""
        ports = free_ports(BROKER_PORTS)
        self._remember(name, ports)
        return broker_at(self.folder / name, *ports)

    def new_postgres(self, name: str) -> PrivatePostgres:
        """Another cluster, not yet started, without durability. The run stops it at its end if nobody has."""
        port = free_port()
        self._remember(name, [port])
        return PrivatePostgres(self.folder / name, port, durable=False)

    def end(self) -> None:
        """Stop every server of the run and remove its folder."""
        for note in self.folder.glob("*.ports.json"):
            name = note.name.removesuffix(".ports.json")
            server = self._known_broker(name) or self._known_postgres(name)
            if server is not None:
                server.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._sign_of_life is not None:
            self._sign_of_life.close()

    def _lock_life(self) -> bool:
        """Become the process that controls this run; False while another one is."""
        file = (self.folder / "alive.lock").open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        self._sign_of_life = file
        return True

    def _remember(self, name: str, ports: list[int]) -> None:
        (self.folder / f"{name}.ports.json").write_text(json.dumps(ports))

    def _ports(self, name: str) -> list[int]:
        note = self.folder / f"{name}.ports.json"
        ports: list[int] = json.loads(note.read_text()) if note.exists() else []
        return ports

    def _known_broker(self, name: str) -> PrivateBroker | None:
        ports = self._ports(name)
        return broker_at(self.folder / name, *ports) if len(ports) == BROKER_PORTS else None

    def _known_postgres(self, name: str) -> PrivatePostgres | None:
        ports = self._ports(name)
        return PrivatePostgres(self.folder / name, *ports, durable=False) if len(ports) == 1 else None

"""One test run: a folder with the servers that all its pytest-xdist workers share.

The first worker that needs a server starts it, under a lock. The process that controls the run stops all servers at the
end, even after failures and Ctrl-C. The next run cleans up after a run that was killed.
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
from tests.support.broker_cluster import BrokerCluster
from tests.support.pgbouncer import Pgbouncer
from tests.support.rabbitmq_release import broker_at

RUNS = Path(__file__).parents[2] / "var" / "test"
BROKER_PORTS = 5


class TestRun:
    """The servers of one run. `folder` is `var/test/run-...`, locked while the controlling process lives."""

    __test__ = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._alive_lock: IO[str] | None = None

    @classmethod
    def new(cls) -> "TestRun":
        """Starts a run controlled by this process, and cleans up after killed ones."""
        RUNS.mkdir(parents=True, exist_ok=True)
        with (RUNS / "runs.lock").open("w") as runs:
            fcntl.flock(runs, fcntl.LOCK_EX)
            for folder in RUNS.glob("run-*"):
                killed = cls(folder)
                if killed._take_control():
                    killed.end()
            run = cls(Path(mkdtemp(prefix="run-", dir=RUNS)))
            # PostgreSQL runs as another user than root and must reach its cluster in this folder.
            run.folder.chmod(0o711)
            run._take_control()
        return run

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Excludes all other workers."""
        with (self.folder / f"{name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def broker(self) -> PrivateBroker:
        """The run's broker, ready. The first call starts it."""
        with self.lock("broker"):
            broker = self._known_broker("broker")
            if broker is None:
                broker = self.new_broker("broker")
                broker.start()
            broker.wait_ready()
        return broker

    def postgres(self) -> PrivatePostgres:
        """The run's PostgreSQL, ready. The first call starts it."""
        with self.lock("postgres"):
            postgres = self._known_postgres("postgres")
            if postgres is None:
                postgres = self.new_postgres("postgres")
                postgres.start()
            postgres.wait_ready()
        return postgres

    def pgbouncer(self) -> Pgbouncer:
        """The run's pgbouncer in front of its PostgreSQL, ready. The first call starts both."""
        postgres = self.postgres()
        with self.lock("pgbouncer"):
            pgbouncer = Pgbouncer(self.folder / "pgbouncer")
            pgbouncer.start(postgres)
        return pgbouncer

    def new_broker(self, name: str) -> PrivateBroker:
        """Another broker, not yet started. The run stops it at the end if it still runs."""
        ports = free_ports(BROKER_PORTS)
        self._remember(name, ports)
        return broker_at(self.folder / name, *ports)

    def new_postgres(self, name: str) -> PrivatePostgres:
        """Another cluster, not yet started, without durability. The run stops it at the end if it still runs."""
        port = free_port()
        self._remember(name, [port])
        return PrivatePostgres(self.folder / name, port, durable=False)

    def new_cluster(self, name: str) -> BrokerCluster:
        """Three brokers that form one cluster, not yet started. The run stops them at the end if they still run."""
        cluster = BrokerCluster(self.folder / name)
        for node in cluster.nodes:
            ports = [node.amqp_port, node.management_port, node.prometheus_port, node.dist_port, node.epmd_port]
            self._remember(node.data_dir.name, ports)
        return cluster

    def end(self) -> None:
        """Stops every server of the run and removes its folder."""
        Pgbouncer(self.folder / "pgbouncer").stop()
        for note in self.folder.glob("*.ports.json"):
            name = note.name.removesuffix(".ports.json")
            server = self._known_broker(name) or self._known_postgres(name)
            if server is not None:
                server.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._alive_lock is not None:
            self._alive_lock.close()

    def _take_control(self) -> bool:
        """Becomes the process that controls this run. False if another process does."""
        file = (self.folder / "alive.lock").open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        self._alive_lock = file
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

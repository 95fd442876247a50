"""A private RabbitMQ node: for any user, on loopback only, with its own epmd, and all its files in one folder.

`python -m cli.local.broker FOLDER ...` runs one in the foreground for a supervisor.
"""

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

from cli.local import LocalError, NotReadyError
from cli.local.background import end_of_log, start_in_background
from cli.local.broker_files import ADMIN, SERVICES, VHOST, node_environment, password, write_node_files
from cli.local.ports import LOOPBACK, refuse_taken
from shared.secret_files import private_folder, write_private

SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
EPMD = "epmd"
START_TIMEOUT_SECONDS = 120.0
STOP_TIMEOUT_SECONDS = 30.0
KILL_TIMEOUT_SECONDS = 5.0
POLL_SECONDS = 0.05
LOOKS_MISSED = 3
AMQP_GREETING = b"AMQP\x00\x00\x09\x01"


class PrivateBroker:
    """One node and its epmd. Nodes with different folders and ports can run side by side."""

    def __init__(
        self,
        data_dir: Path,
        amqp_port: int,
        management_port: int,
        prometheus_port: int,
        dist_port: int,
        epmd_port: int,
        *,
        node_name: str | None = None,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.amqp_port = amqp_port
        self.management_port = management_port
        self.prometheus_port = prometheus_port
        self.dist_port = dist_port
        self.epmd_port = epmd_port
        self.node_name = node_name or f"vashsender-{amqp_port}@localhost"

    # Addresses

    @property
    def management_url(self) -> str:
        return f"http://{LOOPBACK}:{self.management_port}"

    def amqp_url(self, account: str = SERVICES, vhost: str = VHOST) -> str:
        """The AMQP URL of `services` (which may not configure) or `admin`, with the password."""
        return f"amqp://{account}:{self.password(account)}@{LOOPBACK}:{self.amqp_port}/{vhost}"

    def password(self, account: str) -> str:
        return password(self.data_dir, account)

    def leave_addresses(self, folder: Path) -> None:
        """Writes `amqp_url` and `amqp_admin_url` (mode 0600), which the services' settings read."""
        private_folder(folder)
        write_private(folder / "amqp_url", self.amqp_url(SERVICES))
        write_private(folder / "amqp_admin_url", self.amqp_url(ADMIN))

    # Starting and stopping

    @property
    def is_running(self) -> bool:
        """Whether the node's process exists, ready or not."""
        return bool(self._node())

    def start(self) -> None:
        """Starts the node in the background unless it is running. `wait_ready` waits until it can be used.

        Raises PortTakenError, which names port and process, and LocalError if RabbitMQ is not installed."""
        if self.is_running:
            return
        self.prepare()
        with self._output.open("ab") as output:
            start_in_background(self.server_command(), self.data_dir, output, self.environment())

    def run(self, on_ready: Callable[[], None] | None = None) -> int:
        """Runs the node in the foreground until it ends, or until SIGTERM or SIGINT. Calls `on_ready` once it answers
        clients. Returns an exit code."""
        self.stop()  # a killed supervisor may have left one behind
        self.prepare()
        node = subprocess.Popen(
            self.server_command(), env=self.environment(), cwd=self.data_dir, stdin=subprocess.DEVNULL
        )
        told_to_stop = False

        def stop(*_: object) -> None:
            nonlocal told_to_stop
            told_to_stop = True
            self._ask_to_stop()

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        if on_ready is not None:
            while node.poll() is None and not self._answers():
                time.sleep(POLL_SECONDS)
            if node.poll() is None:
                on_ready()
        exit_code = node.wait()
        self.stop()
        return 0 if told_to_stop else exit_code or 1

    def command(self) -> list[str]:
        """The command for a supervisor: runs in the foreground, stops on SIGTERM, needs no environment."""
        options = {
            "amqp-port": self.amqp_port,
            "management-port": self.management_port,
            "prometheus-port": self.prometheus_port,
            "dist-port": self.dist_port,
            "epmd-port": self.epmd_port,
            "node-name": self.node_name,
        }
        arguments = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        return [sys.executable, "-m", "cli.local.broker", str(self.data_dir), *arguments]

    def wait_ready(self, timeout_seconds: float = START_TIMEOUT_SECONDS) -> None:
        """Returns once AMQP clients get an answer: RabbitMQ opens that port last, after accounts and management.

        Raises NotReadyError with the end of the log, at once if the node has ended."""
        deadline = time.monotonic() + timeout_seconds
        seen, missed = False, 0
        while not self._answers():
            running = self.is_running
            missed = 0 if running else missed + 1
            # During exec, as in the start script, a process has no environment to recognise it by for a moment.
            if seen and missed > LOOKS_MISSED:
                raise NotReadyError(f"the private broker ended while starting: {end_of_log(self._output)}")
            if time.monotonic() > deadline:
                raise NotReadyError(
                    f"the private broker is not ready in {timeout_seconds:g} s: {end_of_log(self._output)}"
                )
            seen = seen or running
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """Stops node and epmd, and makes sure that no process remains. Does nothing if none runs."""
        if self._node():
            self._ask_to_stop()
            if not self._wait(lambda: not self._node(), STOP_TIMEOUT_SECONDS):
                self.kill()
        _signal(self.processes(), signal.SIGKILL)
        if not self._wait(lambda: not self.processes(), KILL_TIMEOUT_SECONDS):
            left = ", ".join(f"{process.name()} (pid {process.pid})" for process in self.processes())
            raise LocalError(f"the private broker left {left} running: end it by hand")

    def kill(self) -> None:
        """Sends SIGKILL to the node, like a crash; epmd stays. Returns once the node is gone."""
        _signal(self._node(), signal.SIGKILL)
        if not self._wait(lambda: not self._node(), KILL_TIMEOUT_SECONDS):
            raise LocalError(f"the private broker {self.node_name} survives SIGKILL: end it by hand")

    def restart(self, timeout_seconds: float = START_TIMEOUT_SECONDS) -> None:
        """Stops it, starts it, and waits until it is ready."""
        self.stop()
        self.start()
        self.wait_ready(timeout_seconds)

    def prepare(self) -> None:
        """Checks program and ports, and writes the files."""
        self.server_command()
        ports = {
            "AMQP of the private broker": self.amqp_port,
            "its management": self.management_port,
            "its metrics": self.prometheus_port,
            "its Erlang distribution": self.dist_port,
        }
        if not self.processes():  # otherwise our own epmd still holds its port
            ports["its epmd"] = self.epmd_port
        refuse_taken(ports)
        write_node_files(
            self.data_dir,
            {
                "amqp_port": self.amqp_port,
                "management_port": self.management_port,
                "prometheus_port": self.prometheus_port,
            },
        )

    def server_command(self) -> list[str]:
        """The node's command. Raises LocalError if RabbitMQ is not installed."""
        if not SERVER.exists():
            raise LocalError("RabbitMQ is not installed; run: apt-get install rabbitmq-server")
        return [str(SERVER)]

    def environment(self) -> dict[str, str]:
        return node_environment(self.data_dir, self.node_name, self.dist_port, self.epmd_port)

    def processes(self) -> list[psutil.Process]:
        """Every process of this node, recognised by its environment: unlike a pid file, that is never stale."""
        mine = str(self.data_dir / "mnesia")
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("RABBITMQ_MNESIA_BASE") == mine:
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found

    # Helpers

    def _node(self) -> list[psutil.Process]:
        return [process for process in self.processes() if _name(process) != EPMD]

    def _ask_to_stop(self) -> None:
        """Sends SIGTERM, after removing a management handler that would delay the stop by five seconds."""
        drop = f"rpc:call('{self.node_name}', gen_event, delete_handler, [rabbit_event, rabbit_mgmt_db_handler, []])"
        erlang = ["erl", "-noinput", "-hidden", "-boot", "no_dot_erlang", "-start_epmd", "false"]
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):  # then the stop takes five seconds longer
            subprocess.run(
                [*erlang, "-sname", f"stop-{os.getpid()}@localhost", "-eval", f"{drop}, halt()."],
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=False,
                timeout=KILL_TIMEOUT_SECONDS,
            )
        node = self._node()
        pids = {process.pid for process in node}
        _signal([process for process in node if _parent(process) not in pids], signal.SIGTERM)

    def _answers(self) -> bool:
        try:
            with socket.create_connection((LOOPBACK, self.amqp_port), timeout=1) as connection:
                connection.sendall(AMQP_GREETING)
                return connection.recv(1) == b"\x01"
        except OSError:
            return False

    def _wait(self, condition: Callable[[], bool], timeout_seconds: float) -> bool:
        deadline = time.monotonic() + timeout_seconds
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_SECONDS)
        return True

    @property
    def _output(self) -> Path:
        return self.data_dir / "log" / "output.log"


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.Error:
        return EPMD  # it has ended, so it is no node


def _parent(process: psutil.Process) -> int | None:
    try:
        return process.ppid()
    except psutil.Error:
        return None


def _signal(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    """Sends a signal to those that are still there."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def main() -> int:
    parser = argparse.ArgumentParser(description="Run a private RabbitMQ node in the foreground.")
    parser.add_argument("data_dir", type=Path)
    for name in ("amqp", "management", "prometheus", "dist", "epmd"):
        parser.add_argument(f"--{name}-port", type=int, required=True)
    parser.add_argument("--node-name")
    try:
        return PrivateBroker(**vars(parser.parse_args())).run()
    except LocalError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())

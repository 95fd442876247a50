"""supervisord: started as the current user and controlled through its own socket.

Each program has its own configuration file, so that it can be added or removed while the others run.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from xmlrpc.client import Fault

from cli.local import LocalError, NotReadyError
from cli.local.background import start_in_background
from cli.local.launch import lock_file
from cli.local.rpc import call
from shared.secret_files import write_private

if TYPE_CHECKING:
    from cli.local.programs import Program

START_TIMEOUT_SECONDS = 15.0
SHUT_DOWN_SECONDS = 60.0  # it only has to end the log rotation, but a machine may be busy
POLL_SECONDS = 0.05
LONGEST_SOCKET_PATH = 90  # the system allows 107 octets, and supervisord binds a longer name first
LOG_ROTATION = "log-rotation"
ENDED = ("STOPPED", "EXITED", "FATAL", "UNKNOWN")


@dataclass(frozen=True, slots=True)
class State:
    """One program as supervisord sees it."""

    name: str
    #: supervisord's word, such as `RUNNING`.
    state: str
    #: The process that does the work; 0 if there is none.
    pid: int
    #: How often it was started.
    starts: int
    exit_code: int
    #: Why it could not start; empty if it could.
    trouble: str


class Supervisor:
    """The supervisord of one installation. The constructor does nothing yet."""

    def __init__(self, run_dir: Path, log_dir: Path) -> None:
        self.run_dir = run_dir
        self.log_dir = log_dir
        self.config_file = run_dir / "supervisord.conf"
        self.pid_file = run_dir / "supervisord.pid"
        self.socket = _socket_path(run_dir)

    # supervisord itself

    @property
    def is_running(self) -> bool:
        try:
            self._ask("getState")
        except (OSError, Fault):
            return False
        return True

    def start(self, directory: Path) -> None:
        """Starts supervisord in `directory`, with the programs that have files. Raises LocalError."""
        for folder in (self.run_dir, self.run_dir / "programs", self.log_dir, self.socket.parent):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.socket.parent.stat().st_uid != os.getuid():
            raise LocalError(f"{self.socket.parent} belongs to another user: remove it, or choose a shorter var_dir")
        output = self.log_dir / "supervisord.log"
        self.config_file.unlink(missing_ok=True)
        write_private(self.config_file, self._configuration(output))
        with os.fdopen(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)) as log:
            command = [*_python("supervisor.supervisord"), "-n", "-c", str(self.config_file)]
            start_in_background(command, directory, log, umask=0o077)
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not self.is_running:
            if time.monotonic() > deadline:
                raise NotReadyError(f"supervisord does not answer: {_last_line(output)} (see {output})")
            time.sleep(POLL_SECONDS)

    def shut_down(self) -> None:
        """Ends supervisord. Its programs must have been stopped."""
        pid = self._pid()
        with contextlib.suppress(OSError, Fault):
            self._ask("shutdown")
        if pid is not None:
            _wait_gone(pid, SHUT_DOWN_SECONDS)

    # Programs

    def write(self, program: "Program") -> None:
        """Writes a program's files. They take effect at its next start."""
        what = {
            "argv": list(program.argv),
            "environment": dict(program.environment),
            "log": str(program.log),
            "ready_url": program.ready_url,
            "ports": dict(program.ports),
            "stop_seconds": program.stop_seconds,
        }
        (self.run_dir / "programs").mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(self.run_dir / "programs" / f"{program.name}.json", json.dumps(what, indent=1))
        write_private(
            self.run_dir / "programs" / f"{program.name}.conf",
            _program_section(program.name, self.run_dir, program.stop_seconds),
        )

    def add(self, programs: "Iterable[Program]") -> list[str]:
        """Writes programs and starts those that supervisord does not have yet; returns their names."""
        for program in programs:
            self.write(program)
        added = list(cast(list[list[list[str]]], self._ask("reloadConfig"))[0][0])
        for name in added:
            self._ask("addProcessGroup", name)
        return added

    def remove(self, name: str) -> None:
        """Stops a program, drain included, and removes its files."""
        self.stop([name])
        (self.run_dir / "programs" / f"{name}.conf").unlink(missing_ok=True)
        (self.run_dir / "programs" / f"{name}.json").unlink(missing_ok=True)
        self._ask("reloadConfig")
        self._ask("removeProcessGroup", name)
        lock_file(self.run_dir, name).unlink(missing_ok=True)

    def stop(self, names: Iterable[str]) -> None:
        """Stops programs at the same time and waits until they have ended. SIGKILL follows after `stop_seconds`."""
        waiting = set(names)
        for name in waiting:
            with contextlib.suppress(Fault):  # it does not run
                self._ask("stopProcess", name, False)
        while waiting:
            waiting = {state.name for state in self.states() if state.name in waiting and state.state not in ENDED}
            if waiting:
                time.sleep(POLL_SECONDS)

    def start_program(self, name: str) -> None:
        """Starts a stopped program without waiting for it."""
        with contextlib.suppress(Fault):  # it runs
            self._ask("startProcess", name, False)

    def states(self) -> list[State]:
        """Every program, by name. Raises LocalError if supervisord does not answer."""
        try:
            answers = cast(list[dict[str, Any]], self._ask("getAllProcessInfo"))
        except OSError as error:
            raise LocalError(
                "VashSender is not running here, or its supervisord is not: `vashsender start` starts it"
            ) from error
        programs = (answer for answer in answers if answer["name"] != LOG_ROTATION)
        return [self._state(answer) for answer in sorted(programs, key=lambda answer: str(answer["name"]))]

    def starts(self, name: str) -> int:
        """How often a program was started since it was added."""
        with contextlib.suppress(OSError, ValueError):
            return int(lock_file(self.run_dir, name).read_text().split()[1])
        return 0

    def names(self) -> list[str]:
        """Programs that have files, whether they run or not."""
        return sorted(path.stem for path in (self.run_dir / "programs").glob("*.json"))

    def forget(self) -> None:
        """Removes all programs' files. No program may be running."""
        for path in (self.run_dir / "programs").glob("*"):
            path.unlink(missing_ok=True)

    def holders(self) -> dict[str, int]:
        """Running programs by name, with their pids, supervised or not: those whose lock is held."""
        held = {}
        for path in (self.run_dir / "programs").glob("*.lock"):
            with path.open() as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    with contextlib.suppress(IndexError, ValueError):
                        held[path.stem] = int(file.read().split()[0])
        return held

    # Helpers

    def _ask(self, method: str, *arguments: str | bool) -> Any:
        """Calls supervisord's API. Raises OSError if it does not answer, Fault if it refuses."""
        return call(self.socket, f"supervisor.{method}", *arguments)

    def _pid(self) -> int | None:
        with contextlib.suppress(OSError, ValueError):
            return int(self.pid_file.read_text())
        return None

    def _state(self, answer: Mapping[str, Any]) -> State:
        name = str(answer["name"])
        pid, starts = int(answer["pid"]), 0
        if pid:
            # The lock names the program itself, even if supervisord's child only stands in for it.
            with contextlib.suppress(OSError, ValueError):
                worker, count = lock_file(self.run_dir, name).read_text().split()
                pid, starts = int(worker), int(count)
        return State(
            name=name,
            state=str(answer["statename"]),
            pid=pid,
            starts=starts,
            exit_code=int(answer["exitstatus"]),
            trouble=str(answer["spawnerr"]),
        )

    def _configuration(self, output: Path) -> str:
        return f"""; Written by `vashsender start`; changes are lost.
[supervisord]
logfile = {_escape(output)}
logfile_maxbytes = 10MB
logfile_backups = 3
pidfile = {_escape(self.pid_file)}
childlogdir = {_escape(self.log_dir)}
umask = 077
silent = true
minfds = 1024
{"user = root" if os.getuid() == 0 else ""}

[unix_http_server]
file = {_escape(self.socket)}
chmod = 0600

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface

[eventlistener:{LOG_ROTATION}]
command = {_escape(shlex.join([*_python("cli.local.rotate_logs"), str(self.log_dir)]))}
events = TICK_60
stdout_logfile = NONE
stderr_logfile = NONE

[include]
files = programs/*.conf
"""


def _program_section(name: str, run_dir: Path, stop_seconds: float) -> str:
    # Retries starts without end; supervisord waits a second longer each time.
    return f"""[program:{name}]
command = {_escape(shlex.join([*_python("cli.local.launch"), str(run_dir), name]))}
autorestart = true
startsecs = 1
startretries = 1000000
stopwaitsecs = {stop_seconds:.0f}
stdout_logfile = NONE
redirect_stderr = true
"""


def _python(module: str) -> tuple[str, ...]:
    """The command of a module. -P keeps the current folder out of the import path."""
    return sys.executable, "-P", "-m", module


def _escape(path: Path | str) -> str:
    """A path for supervisord's configuration, where % starts a variable."""
    return str(path).replace("%", "%%")


def _socket_path(run_dir: Path) -> Path:
    """The socket beside the other files, or in a short private folder if its path would be too long."""
    path = run_dir / "supervisor.sock"
    if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
        return path
    digest = hashlib.sha256(os.fsencode(run_dir)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"vashsender-{os.getuid()}-{digest}" / "supervisor.sock"


def _wait_gone(pid: int, seconds: float) -> None:
    import psutil  # takes time to load, and only this needs it

    with contextlib.suppress(psutil.NoSuchProcess):
        try:
            psutil.Process(pid).wait(seconds)
        except psutil.TimeoutExpired:
            raise NotReadyError(f"supervisord (pid {pid}) has not ended within {seconds:g} s") from None


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").splitlines()
    return lines[-1] if lines else "its log is empty"

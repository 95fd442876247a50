"""Starts services by forking a process that has already imported them, which saves 1.5 s of CPU for each.

The result equals `python -m services.X`: a separate process with its own session, environment, folder and output.
Each pytest worker has one fork server, which ends with it.
"""

import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from tempfile import mkdtemp

SERVICES = ("api", "dispatcher", "sender", "watchdog", "webhooks")
MAX_REQUEST_BYTES = 1_000_000
POLL_SECONDS = 0.01
STOP_SECONDS = 30.0


class ForkedProcess:
    """A forked service, with the interface of `subprocess.Popen`. `exit_file` will hold its exit code."""

    def __init__(self, pid: int, exit_file: Path) -> None:
        self.pid = pid
        self.args: list[str] = []
        self._exit_file = exit_file
        self._code: int | None = None

    def poll(self) -> int | None:
        if self._code is None and self._exit_file.exists():
            self._code = int(self._exit_file.read_text())
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        until = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if timeout is not None and until is not None and time.monotonic() > until:
                raise subprocess.TimeoutExpired(self.args, timeout)
            time.sleep(POLL_SECONDS)
        return code

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


class ForkServer:
    """Forks services on request. Its process starts with the first `start`."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._left: list[subprocess.Popen[bytes]] = []

    def start(self, module: str, environment: Mapping[str, str], folder: Path, log: Path) -> ForkedProcess:
        """Runs `module` as `python -m` would, in `folder`, and appends its output to `log`."""
        if self._process is None:
            self._begin()
        request = {"module": module, "environment": dict(environment), "folder": str(folder), "log": str(log)}
        try:
            self._socket.send(json.dumps(request).encode())
            pid = int(self._socket.recv(MAX_REQUEST_BYTES))
        except BaseException:  # a test ran into its timeout: the next one would read the reply to this request
            self._leave()
            raise
        return ForkedProcess(pid, self._folder / str(pid))

    def stop(self) -> None:
        if self._process is not None:
            self._leave()
        for process in self._left:
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:  # a service of it still runs
                process.kill()
                process.wait()

    def _leave(self) -> None:
        """Takes no more from this process, which ends with the services it has started. The next `start` begins one."""
        assert self._process is not None
        self._socket.close()
        self._left.append(self._process)
        self._process = None

    def _begin(self) -> None:
        self._folder = Path(mkdtemp(prefix="fork-server-"))
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.fork_server", str(theirs.fileno()), str(self._folder)],
                cwd=Path(__file__).parents[2],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )


def main() -> None:
    requests, exit_folder = socket.socket(fileno=int(sys.argv[1])), Path(sys.argv[2])
    for service in SERVICES:
        import_module(f"services.{service}.main")
    gc.freeze()
    signal.signal(signal.SIGCHLD, lambda *_: _reap(exit_folder))
    while request := _received(requests):
        pid = os.fork()
        if not pid:
            requests.close()
            _run_service(**json.loads(request))
        try:
            requests.send(str(pid).encode())
        except BrokenPipeError:  # the test that asked for it was interrupted: no one would end it
            os.kill(pid, signal.SIGKILL)
    while _reap(exit_folder):
        time.sleep(POLL_SECONDS)


def _received(requests: socket.socket) -> bytes:
    """The next request; empty if there are no more."""
    try:
        return requests.recv(MAX_REQUEST_BYTES)
    except ConnectionResetError:  # the other end was closed with a reply unread
        return b""


def _reap(exit_folder: Path) -> bool:
    """Notes how children ended. Returns whether others still run."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if not pid:
            return True
        draft = exit_folder / f"{pid}.draft"
        draft.write_text(str(os.waitstatus_to_exitcode(status)))
        draft.rename(exit_folder / str(pid))


def _run_service(module: str, environment: dict[str, str], folder: str, log: str) -> None:
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.setsid()
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        # A sender that restarts itself runs this command.
        sys.orig_argv[:] = [sys.executable, "-m", module]
        sys.argv[:] = [module]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as exit_:
        if exit_.code is None or isinstance(exit_.code, int):
            code = exit_.code or 0
        else:
            sys.stderr.write(f"{exit_.code}\n")
    except BaseException:  # noqa: BLE001 - as the interpreter does with any exception
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()

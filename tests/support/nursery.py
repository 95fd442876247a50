"""Starts services by forking a process that has imported them all: a second and a half of processor time less for each.

What comes of it is what `python -m services.X` is: a process of its own, with its own session, environment, folder and
output. One nursery for each pytest worker; it ends with whoever started it.
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

SERVICES = ("api", "dispatcher", "sender", "watchdog")
LONGEST_REQUEST = 1_000_000
POLL_SECONDS = 0.01


class Child:
    """A service that was forked; used like `subprocess.Popen`."""

    def __init__(self, pid: int, ended: Path) -> None:
        self.pid = pid
        self.args: list[str] = []
        self._ended = ended
        self._code: int | None = None

    def poll(self) -> int | None:
        if self._code is None and self._ended.exists():
            self._code = int(self._ended.read_text())
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


class Nursery:
    """Begins at the first `start`."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, module: str, environment: Mapping[str, str], folder: Path, log: Path) -> Child:
        """`module` as `python -m` would run it, in `folder`, its output appended to `log`."""
        if self._process is None:
            self._begin()
        request = {"module": module, "environment": dict(environment), "folder": str(folder), "log": str(log)}
        self._socket.send(json.dumps(request).encode())
        pid = int(self._socket.recv(LONGEST_REQUEST))
        return Child(pid, self._folder / str(pid))

    def end(self) -> None:
        if self._process is not None:
            self._socket.close()
            self._process.wait()

    def _begin(self) -> None:
        self._folder = Path(mkdtemp(prefix="nursery-"))
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.nursery", str(theirs.fileno()), str(self._folder)],
                cwd=Path(__file__).parents[2],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )


def main() -> None:
    requests, ended = socket.socket(fileno=int(sys.argv[1])), Path(sys.argv[2])
    for service in SERVICES:
        import_module(f"services.{service}.main")
    gc.freeze()
    signal.signal(signal.SIGCHLD, lambda *_: _bury(ended))
    while request := requests.recv(LONGEST_REQUEST):
        pid = os.fork()
        if not pid:
            requests.close()
            _live(**json.loads(request))
        requests.send(str(pid).encode())


def _bury(ended: Path) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        draft = ended / f"{pid}.draft"
        draft.write_text(str(os.waitstatus_to_exitcode(status)))
        draft.rename(ended / str(pid))


def _live(module: str, environment: dict[str, str], folder: str, log: str) -> None:
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
        # A sender that begins anew starts this command.
        sys.orig_argv[:] = [sys.executable, "-m", module]
        sys.argv[:] = [module]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            code = ended.code or 0
        else:
            sys.stderr.write(f"{ended.code}\n")
    except BaseException:  # noqa: BLE001 - as the interpreter does with whatever ends a program
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()

"""`python -m cli.local.launch RUN_DIR NAME`: becomes a supervised program, and makes sure that it runs only once.

The process holds a lock file for as long as it lives. If a killed supervisord left the program running, this process
adopts it: it passes signals on and ends when the program ends. Output goes straight to the program's log file, so a
dying supervisord breaks no pipe.

It imports only a little of the standard library, because it runs before every start.
"""

import contextlib
import fcntl
import json
import os
import select
import signal
import sys
from pathlib import Path
from typing import NoReturn

ROTATE_BYTES = 10_000_000
KEPT = 3
"""Older files kept of each log; NAME.log.1 is the newest of them."""

ADOPTED_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def main() -> NoReturn:
    """Becomes the program, or ends when the adopted program ends."""
    run_dir, name = Path(sys.argv[1]), sys.argv[2]
    program = json.loads((run_dir / "programs" / f"{name}.json").read_text())
    _write_output_to(Path(program["log"]))
    lock = os.open(lock_file(run_dir, name), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _adopt_holder(lock)
        fcntl.flock(lock, fcntl.LOCK_EX)  # nothing to adopt: another process was only testing the lock
    before = os.pread(lock, 100, 0).split()
    os.ftruncate(lock, 0)
    os.pwrite(lock, b"%d %d\n" % (os.getpid(), int(before[1]) + 1 if len(before) == 2 else 1), 0)
    os.set_inheritable(lock, True)  # the program holds it until it ends
    os.execve(program["argv"][0], program["argv"], program["environment"])  # noqa: S606


def lock_file(run_dir: Path, name: str) -> Path:
    """The file with the program's pid and number of starts. It is locked while the program runs."""
    return run_dir / "programs" / f"{name}.lock"


def _adopt_holder(lock: int) -> None:
    """Stands in for a running program that is not our child: exits with 1 when it ends. Returns if there is none."""
    try:
        pid = int(os.pread(lock, 100, 0).split()[0])
        os.kill(pid, 0)
    except (IndexError, ProcessLookupError):
        return
    if hasattr(os, "pidfd_open"):
        _stand_in_for(pid)
    else:
        _stand_in_without_pidfd(pid, lock)
    sys.exit(1)


def _stand_in_for(pid: int) -> None:
    """Passes signals on until the process ends. Its number cannot be taken by another process meanwhile."""
    try:
        ended = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    for number in ADOPTED_SIGNALS:
        signal.signal(number, lambda received, _frame: signal.pidfd_send_signal(ended, received))
    _say_adopted(pid)
    select.select([ended], [], [])


def _stand_in_without_pidfd(pid: int, lock: int) -> None:
    """The same on macOS, where the lock tells that the process lives."""

    def pass_on(received: int, _frame: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, received)

    for number in ADOPTED_SIGNALS:
        signal.signal(number, pass_on)
    _say_adopted(pid)
    fcntl.flock(lock, fcntl.LOCK_EX)  # goes on waiting after a signal (PEP 475)


def _say_adopted(pid: int) -> None:
    sys.stderr.write(f"adopted process {pid}, which outlived its supervisor\n")
    sys.stderr.flush()


def rotate(path: Path) -> None:
    """Renames a log file if it is too large. No process may be writing to it."""
    if path.exists() and path.stat().st_size > ROTATE_BYTES:
        age(path)
        path.replace(path.with_name(f"{path.name}.1"))


def age(path: Path) -> None:
    """Frees the name NAME.log.1: renames each older file to the next number and drops the oldest."""
    for number in range(KEPT, 1, -1):
        older = path.with_name(f"{path.name}.{number - 1}")
        if older.exists():
            older.replace(path.with_name(f"{path.name}.{number}"))


def _write_output_to(path: Path) -> None:
    rotate(path)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


if __name__ == "__main__":
    main()

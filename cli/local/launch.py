"""`python -m cli.local.launch RUN_DIR NAME`: becomes the program a supervisor is to run, once on this machine.

A lock file per program, held for the life of the process, keeps a program from running twice. Where a killed
supervisord left one running, this process adopts it instead: it passes signals on and ends when the stray ends. Output
goes straight to the program's own log file, so the death of a supervisord breaks no pipe.

Only the standard library and little of that is imported: this runs before every start.
"""

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
"""Older files of each log: NAME.log.1 is the youngest."""

ADOPTED_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def main() -> NoReturn:
    """Never returns: the process becomes the program, or ends with the stray that it adopted."""
    run_dir, name = Path(sys.argv[1]), sys.argv[2]
    program = json.loads((run_dir / "programs" / f"{name}.json").read_text())
    _write_output_to(Path(program["log"]))
    lock = os.open(lock_file(run_dir, name), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _adopt_holder(lock)
        fcntl.flock(lock, fcntl.LOCK_EX)  # nobody to adopt: someone only looks whether it is locked
    before = os.pread(lock, 100, 0).split()
    os.ftruncate(lock, 0)
    os.pwrite(lock, b"%d %d\n" % (os.getpid(), int(before[1]) + 1 if len(before) == 2 else 1), 0)
    os.set_inheritable(lock, True)  # held until the program ends, whatever becomes of us
    os.execve(program["argv"][0], program["argv"], program["environment"])  # noqa: S606


def lock_file(run_dir: Path, name: str) -> Path:
    """Holds the pid of the program and how often it was started; locked while it runs."""
    return run_dir / "programs" / f"{name}.lock"


def _adopt_holder(lock: int) -> None:
    """Stands in for a process that is not our child; ends, as a failure, when it ends. Returns where there is none."""
    try:
        pid = int(os.pread(lock, 100, 0).split()[0])
        ended = os.pidfd_open(pid)
    except (IndexError, ProcessLookupError):
        return
    sys.stderr.write(f"adopted process {pid}, which outlived its supervisor\n")
    for number in ADOPTED_SIGNALS:
        signal.signal(number, lambda received, _frame: signal.pidfd_send_signal(ended, received))
    select.select([ended], [], [])
    sys.exit(1)


def rotate(path: Path) -> None:
    """Puts a log file that nobody writes aside when it is too large."""
    if path.exists() and path.stat().st_size > ROTATE_BYTES:
        age(path)
        path.replace(path.with_name(f"{path.name}.1"))


def age(path: Path) -> None:
    """Makes room for NAME.log.1: each older file becomes one older, and the oldest goes."""
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

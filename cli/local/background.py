"""Private servers in the background: how they are started, and what they wrote last."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

LOG_LINES_SHOWN = 20
# As util-linux's `setsid --fork`, which macOS and busybox do not have.
SETSID = "import subprocess, sys; subprocess.Popen(sys.argv[1:], start_new_session=True)"


def start_in_background(
    command: Sequence[str | Path],
    directory: Path,
    log: IO[str] | IO[bytes],
    environment: Mapping[str, str] | None = None,
    umask: int = -1,
) -> None:
    """Starts a program that outlives the command, in a new session. A Python in between leaves the command no child to
    reap. Raises CalledProcessError if the program does not exist."""
    subprocess.run(
        [sys.executable, "-I", "-S", "-c", SETSID, *command],
        env=environment,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        umask=umask,
        check=True,
    )


def end_of_log(log: Path) -> str:
    """The last lines of a log file, and where it is."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "\n".join([f"see {log}", *lines[-LOG_LINES_SHOWN:]])

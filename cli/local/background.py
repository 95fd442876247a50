"""Private servers in the background: how they are started, and what they wrote last."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

LOG_LINES_SHOWN = 20


def start_in_background(
    command: Sequence[str | Path],
    directory: Path,
    log: IO[str] | IO[bytes],
    environment: Mapping[str, str] | None = None,
    umask: int = -1,
) -> None:
    """Starts a program that outlives the command. `setsid --fork` also leaves no child for the command to reap."""
    subprocess.run(
        ["setsid", "--fork", *command],
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

"""`python -m cli.local.rotate_logs FOLDER`: keeps the log files of running programs bounded.

An event listener of supervisord (http://supervisord.org/events.html). Every minute it copies and empties files that are
too large. Programs write with O_APPEND, so they continue at the beginning without a signal.
"""

import os
import shutil
import sys
from pathlib import Path

from cli.local.launch import ROTATE_BYTES, age

SUPERVISORS_OWN = ("supervisord.log",)


def rotate_running(folder: Path) -> None:
    """Copies every file that is too large to NAME.log.1, then empties it."""
    for path in folder.glob("*.log"):
        if path.name in SUPERVISORS_OWN or path.stat().st_size <= ROTATE_BYTES:
            continue
        age(path)
        first = path.with_name(f"{path.name}.1")
        descriptor = os.open(first, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with path.open("rb") as source, os.fdopen(descriptor, "wb") as target:
            shutil.copyfileobj(source, target)
        os.truncate(path, 0)


def main() -> None:
    folder = Path(sys.argv[1])
    while True:
        sys.stdout.write("READY\n")
        sys.stdout.flush()
        header = sys.stdin.readline()
        if not header:
            return
        length = int(dict(word.split(":", 1) for word in header.split())["len"])
        sys.stdin.read(length)
        rotate_running(folder)
        sys.stdout.write("RESULT 2\nOK")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

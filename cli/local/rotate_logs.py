"""`python -m cli.local.rotate_logs FOLDER`: keeps the log files of running programs bounded.

An event listener of supervisord (http://supervisord.org/events.html): every minute it copies a file that has grown too
large and empties it. The programs write with O_APPEND, so they go on at its beginning and need not be told.
"""

import os
import shutil
import sys
from pathlib import Path

from cli.local.launch import ROTATE_BYTES, age

SUPERVISORS_OWN = ("supervisord.log",)


def rotate_running(folder: Path) -> None:
    """Empties every file that is too large, after its content was put aside."""
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

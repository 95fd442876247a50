"""Actions on an installation: one at a time, and recorded in `log/control.log` (who, when, what, result)."""

import contextlib
import fcntl
import getpass
import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime

from cli.local.launch import rotate
from cli.settings import LocalSettings


class Result:
    """An action's result in words, for `control.log`."""

    def __init__(self) -> None:
        self.text = "done"


@contextlib.contextmanager
def control(config: LocalSettings, action: str) -> Iterator[Result]:
    """Waits until no other action runs, then records how the block ended."""
    config.home.mkdir(mode=0o700, parents=True, exist_ok=True)  # it holds recipients' addresses
    config.run_dir.mkdir(mode=0o700, exist_ok=True)
    with os.fdopen(os.open(config.run_dir / "control.guard", os.O_RDWR | os.O_CREAT, 0o600)) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with noted(config, action) as result:
            yield result


@contextlib.contextmanager
def noted(config: LocalSettings, action: str) -> Iterator[Result]:
    """Records how the block ended."""
    began = time.monotonic()
    result = Result()
    try:
        yield result
    except BaseException as error:
        result.text = f"{type(error).__name__}: {error}"
        raise
    finally:
        _note(config, {"action": action, "result": result.text, "seconds": round(time.monotonic() - began, 1)})


def _note(config: LocalSettings, what: dict[str, object]) -> None:
    path = config.logs / "control.log"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    rotate(path)
    entry = {
        "event": "control",
        "level": "info",
        "service": "control",
        "instance": _user(),
        "timestamp": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        **what,
    }
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "w") as file:
        file.write(json.dumps(entry, ensure_ascii=False) + "\n")


def _user() -> str:
    """The user, or under sudo the user who called it."""
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())

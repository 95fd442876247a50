"""Secrets of the private servers: generated once, and readable only by their owner."""

import os
import secrets
from pathlib import Path

SECRET_BYTES = 24


def secret_in(path: Path) -> str:
    """The secret in `path`. The first call generates it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists():
        write_private(path, secrets.token_urlsafe(SECRET_BYTES))
    return path.read_text()


def write_private(path: Path, text: str) -> None:
    """Writes `text` to `path` with mode 0600, atomically."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    draft.rename(path)

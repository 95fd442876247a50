"""A sender's fixed name, guarded by a file lock: only who holds the lock may take back what that name held before."""

import fcntl
import os
import secrets
import socket
from pathlib import Path
from types import TracebackType


class Slot:
    """Tries to take the lock at `folder`/`name`.lock. The operating system frees it when the process dies, however.

    `owner` names us in the ledger. It holds a random part kept in the lock file, so two machines of one host name, or
    two installations on one, are never taken for each other. It is None where another process holds the lock."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.name = name
        self.owner: str | None = None
        self._file = os.open(folder / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        identity = os.read(self._file, 64).decode().strip()
        if not identity:
            identity = secrets.token_hex(4)
            os.pwrite(self._file, identity.encode(), 0)
            os.fsync(self._file)
        self.owner = f"{name}@{socket.gethostname()}#{identity}"

    def __enter__(self) -> "Slot":
        return self

    def __exit__(self, _type: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        os.close(self._file)

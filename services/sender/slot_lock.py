"""The lock of a slot name: only the process that holds it may resume the batches that name held before."""

import fcntl
import os
import secrets
import socket
from pathlib import Path
from types import TracebackType


class SlotLock:
    """Tries to take the lock of the file `folder`/`name`.lock; does nothing without a name. The operating system frees
    it when the process dies."""

    def __init__(self, folder: Path, name: str) -> None:
        #: The owner's name in the ledger; None without the lock. Its random part is kept in the file, so that two
        #: machines with one host name, or two installations on one, are never taken for each other.
        self.owner: str | None = None
        self._file: int | None = None
        if not name:
            return
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
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

    def __enter__(self) -> "SlotLock":
        return self

    def __exit__(self, _type: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        if self._file is not None:
            os.close(self._file)

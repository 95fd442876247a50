"""Emails on disk, as a Maildir (https://cr.yp.to/proto/maildir.html) that any mail reader can open."""

import os
import re
import socket
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from time import time_ns

_KEY = re.compile(r"\d+\.M\d+P\d+Q\d+\.[A-Za-z0-9._-]+")


class Maildir:
    """Stores each email under a unique key; keys sort by arrival. All emails stay in `new`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._host = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())
        self._numbers = count(1)
        for folder in ("tmp", "new", "cur"):
            (path / folder).mkdir(mode=0o700, parents=True, exist_ok=True)

    def store(self, *parts: bytes) -> str:
        """Writes an email and returns its key. It appears in `new` atomically."""
        seconds, rest = divmod(time_ns(), 1_000_000_000)
        key = f"{seconds}.M{rest // 1000:06}P{os.getpid()}Q{next(self._numbers)}.{self._host}"
        draft = self.path / "tmp" / key
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.writev(descriptor, parts)
        finally:
            os.close(descriptor)
        draft.rename(self.path / "new" / key)
        return key

    def keys(self) -> list[str]:
        """Every key, newest first."""
        names = (entry.name for entry in os.scandir(self.path / "new"))
        return sorted(filter(_KEY.fullmatch, names), reverse=True)

    def read(self, key: str) -> bytes:
        """The email with this key. Raises KeyError."""
        if not _KEY.fullmatch(key):
            raise KeyError(key)
        try:
            return (self.path / "new" / key).read_bytes()
        except FileNotFoundError:
            raise KeyError(key) from None

    def headers(self, key: str, longest: int = 65_536) -> bytes:
        """The header block of an email, read without its body."""
        with (self.path / "new" / key).open("rb") as file:
            return file.read(longest).partition(b"\r\n\r\n")[0]

    def since(self, moment: float) -> Iterator[str]:
        """Keys of emails that arrived at or after a moment (seconds since 1970), in no order."""
        for entry in os.scandir(self.path / "new"):
            seconds, dot, rest = entry.name.partition(".M")
            if dot and int(seconds) + int(rest[:6]) / 1e6 >= moment:
                yield entry.name

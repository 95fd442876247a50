"""Work that comes again and again, seen from outside: since when the turn at hand lasts."""

import time
from types import TracebackType


class Turn:
    """`with turn:` around each turn. One at a time."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._began_at: float | None = None

    @property
    def seconds(self) -> float:
        """How long the turn at hand has lasted; 0 between two turns."""
        return 0.0 if self._began_at is None else time.monotonic() - self._began_at

    def __enter__(self) -> "Turn":
        self._began_at = time.monotonic()
        return self

    def __exit__(self, _type: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        self._began_at = None

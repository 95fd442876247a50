"""How long the current tick of repeating work has lasted, so that a hung one is noticed from outside."""

import time
from types import TracebackType


class Ticks:
    """`with ticks:` around each tick, one at a time."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._started_at: float | None = None

    @property
    def seconds(self) -> float:
        """How long the current tick has lasted; 0 between two ticks."""
        return 0.0 if self._started_at is None else time.monotonic() - self._started_at

    def __enter__(self) -> "Ticks":
        self._started_at = time.monotonic()
        return self

    def __exit__(self, _type: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        self._started_at = None

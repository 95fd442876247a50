"""Room in memory for large contents: few are received at once, and one after the other is worked on."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.api.usecases.errors import UnavailableError

SMALL_BYTES = 256 * 1024
"""Smaller bodies and contents need no room: the number of connections bounds them."""


class Room:
    """So many bytes. The request that asks first gets room first; something larger than all of it has it alone."""

    def __init__(self, total_bytes: int, patience_seconds: float) -> None:
        self._total = total_bytes
        self._patience_seconds = patience_seconds
        self._used = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def of(self, size: int) -> AsyncIterator[None]:
        """Holds room for `size` bytes inside the block. Raises UnavailableError if there is none for too long."""
        await self.take(size)
        try:
            yield
        finally:
            self.give(size)

    async def take(self, size: int) -> None:
        """As `of`, without its end."""
        if size <= SMALL_BYTES:
            return
        if self._waiting or not self._fits(size):
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append((size, turn))
            try:
                async with asyncio.timeout(self._patience_seconds):
                    await turn
            except BaseException as error:
                if turn.done() and not turn.cancelled():
                    self.give(size)
                else:
                    self._waiting.remove((size, turn))
                    self._admit()
                if isinstance(error, TimeoutError):
                    raise UnavailableError("Other large requests are being worked on. Repeat it.") from None
                raise
        else:
            self._used += size

    def give(self, size: int) -> None:
        """Ends what `take` began."""
        if size > SMALL_BYTES:
            self._used -= size
            self._admit()

    def _fits(self, size: int) -> bool:
        return not self._used or self._used + size <= self._total

    def _admit(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            size, turn = self._waiting.popleft()
            if not turn.done():
                self._used += size
                turn.set_result(None)

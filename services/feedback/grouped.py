"""Group work: whatever has accumulated from all connections is done in one call, and the next begins at once."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from shared.ledger.database import is_unavailable

MOST_AT_ONCE = 100

T = TypeVar("T")
R = TypeVar("R")


@dataclass(eq=False)
class _Waiting(Generic[T, R]):
    item: T
    done: asyncio.Future[R]


class Grouped(Generic[T, R]):
    """`work` gets items and returns a result for each, in the same order."""

    def __init__(self, work: Callable[[Sequence[T]], Awaitable[Sequence[R]]]) -> None:
        self._work = work
        self._waiting: list[_Waiting[T, R]] = []
        self._filled = asyncio.Event()

    async def do(self, item: T) -> R:
        """The result for one item. Raises what the work raises."""
        waiting = _Waiting[T, R](item, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._filled.set()
        return await waiting.done

    async def run(self) -> None:
        """Works until it is cancelled."""
        while True:
            await self._filled.wait()
            group, self._waiting = self._waiting[:MOST_AT_ONCE], self._waiting[MOST_AT_ONCE:]
            if not self._waiting:
                self._filled.clear()
            if group:
                await self._do(group)

    async def _do(self, group: Sequence[_Waiting[T, R]]) -> None:
        try:
            results = await self._work([waiting.item for waiting in group])
        except Exception as error:  # noqa: BLE001 - those who wait are told
            if len(group) > 1 and not is_unavailable(error):
                for waiting in group:  # one of them is at fault, and must not keep the others out
                    await self._do([waiting])
                return
            for waiting in group:
                if not waiting.done.done():
                    waiting.done.set_exception(error)
            return
        for waiting, result in zip(group, results, strict=True):
            if not waiting.done.done():
                waiting.done.set_result(result)

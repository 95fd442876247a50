"""Group work of the feedback service: what waits together is done together, and one at fault harms no other."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from services.feedback.grouped import MOST_AT_ONCE, Grouped


class Work:
    """Doubles numbers. It waits until it is released, and refuses negative numbers."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.has_begun = asyncio.Event()
        self.released = asyncio.Event()
        self.error: type[Exception] = ValueError
        self.grouped = Grouped(self._do)

    async def _do(self, items: Sequence[int]) -> Sequence[int]:
        self.calls.append(list(items))
        self.has_begun.set()
        await self.released.wait()
        if min(items) < 0:
            raise self.error
        return [item * 2 for item in items]

    async def waiting(self, *items: int) -> list[asyncio.Task[int]]:
        """Items that wait behind a first one, which is being worked on until `released`."""
        first = asyncio.create_task(self.grouped.do(0))
        await self.has_begun.wait()
        tasks = [asyncio.create_task(self.grouped.do(item)) for item in items]
        await asyncio.sleep(0)  # each task runs once: its item waits
        assert not first.done()
        return tasks


@pytest.fixture
async def work() -> AsyncIterator[Work]:
    work = Work()
    running = asyncio.create_task(work.grouped.run())
    yield work
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_what_waits_is_done_in_one_call(work: Work) -> None:
    tasks = await work.waiting(*range(1, MOST_AT_ONCE + 3))
    work.released.set()
    assert await asyncio.gather(*tasks) == [2 * number for number in range(1, MOST_AT_ONCE + 3)]
    assert [len(call) for call in work.calls] == [1, MOST_AT_ONCE, 2]


async def test_one_at_fault_harms_no_other(work: Work) -> None:
    tasks = await work.waiting(1, -2, 3)
    work.released.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(one) for one in results] == [int, ValueError, int]
    assert work.calls == [[0], [1, -2, 3], [1], [-2], [3]]


async def test_without_the_database_no_item_is_tried_alone(work: Work) -> None:
    work.error = ConnectionRefusedError
    tasks = await work.waiting(1, -2, 3)
    work.released.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(one) for one in results] == [ConnectionRefusedError] * 3
    assert work.calls == [[0], [1, -2, 3]]


async def test_who_waits_no_longer_harms_no_other(work: Work) -> None:
    tasks = await work.waiting(1, 2)
    tasks[0].cancel()
    await asyncio.wait(tasks[:1])
    work.released.set()
    assert await tasks[1] == 4
    assert await work.grouped.do(5) == 10

"""Room for large contents in the API."""

import asyncio

import pytest

from services.api.room import SMALL_BYTES, Room
from services.api.usecases.errors import UnavailableError

MEGABYTE = 1_000_000


async def test_the_one_that_asked_first_gets_room_first() -> None:
    room, order = Room(3 * MEGABYTE, 10.0), list[int]()

    async def work(number: int, size: int) -> None:
        async with room.of(size):
            order.append(number)
            await asyncio.sleep(0)

    await asyncio.gather(
        *(work(number, size * MEGABYTE) for number, size in enumerate((2, 2, 1, 9, 1))),
    )
    assert order == [0, 1, 2, 3, 4]


async def test_a_small_content_never_waits() -> None:
    room = Room(MEGABYTE, 10.0)
    async with room.of(5 * MEGABYTE), room.of(SMALL_BYTES):
        pass


async def test_one_that_waits_too_long_is_refused_and_holds_up_no_one() -> None:
    room = Room(2 * MEGABYTE, 0.02)
    async with room.of(MEGABYTE):
        with pytest.raises(UnavailableError):
            async with room.of(2 * MEGABYTE):
                pass
        async with room.of(MEGABYTE):
            pass
    async with room.of(2 * MEGABYTE):
        pass


async def test_a_client_that_leaves_while_it_waits_holds_up_no_one() -> None:
    room = Room(MEGABYTE, 10.0)
    async with room.of(MEGABYTE):
        waiting = asyncio.create_task(room.take(MEGABYTE))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    async with asyncio.timeout(5), room.of(MEGABYTE):
        pass

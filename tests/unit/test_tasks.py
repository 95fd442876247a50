"""The end of background work."""

import asyncio
from contextlib import suppress

import pytest

from shared import tasks


async def test_work_that_loses_a_cancellation_ends_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that opens a connection may answer a cancellation with a TimeoutError, and a clock then goes on."""
    monkeypatch.setattr(tasks, "CANCEL_AGAIN_SECONDS", 0.01)
    lost = asyncio.Event()

    async def loses_one() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        lost.set()
        await asyncio.Event().wait()

    ending = [asyncio.create_task(loses_one()), asyncio.create_task(asyncio.Event().wait())]
    await asyncio.sleep(0)
    await tasks.end_all(ending)
    assert lost.is_set()
    assert all(task.cancelled() for task in ending)

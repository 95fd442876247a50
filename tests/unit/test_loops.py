"""A test leaves no task behind, not even one that began while the others were cancelled."""

import asyncio


def test_tasks_that_cancelled_tasks_start_are_ended() -> None:
    late: list[asyncio.Task[None]] = []

    async def starts_another() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            late.append(asyncio.ensure_future(asyncio.sleep(60)))

    async def leaves_it() -> None:
        late.append(asyncio.ensure_future(starts_another()))
        await asyncio.sleep(0)

    with asyncio.Runner() as runner:
        runner.run(leaves_it())
    assert len(late) == 2
    assert all(task.cancelled() for task in late)

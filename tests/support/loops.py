"""Ends everything that a test left in its event loop, so that nothing of it disturbs a later test."""

import asyncio
import asyncio.runners

MOST_ROUNDS = 10


def cancel_tasks_of_tasks() -> None:
    """Makes asyncio.Runner cancel tasks until none is left. By itself it does so once; but a connection to the broker
    that ends this way starts others, which would be destroyed while another test runs, and fail that one."""
    runners = vars(asyncio.runners)
    cancel_all = runners["_cancel_all_tasks"]

    def cancel_until_none(loop: asyncio.AbstractEventLoop) -> None:
        for _ in range(MOST_ROUNDS):
            if not asyncio.all_tasks(loop):
                return
            cancel_all(loop)

    runners["_cancel_all_tasks"] = cancel_until_none

"""The capacity of a sender: how many batches it works on at once, and how many more may only wait."""

import asyncio
from collections import Counter

from services.sender.held_batch import HeldBatch
from shared.ledger.batches import LIMITED_PER_PLACE

MOST_HANGING = 64
"""Batches without a limit that a process holds without a place, because only their last replies are missing. So a relay
that keeps one email hanging does not keep the batches behind it."""


class Places:
    """A batch takes a place before it is claimed, and gives it up when it only waits, at the latest when it ends."""

    def __init__(self, capacity: int) -> None:
        self._free = asyncio.Semaphore(capacity)
        #: Held batches without a place, at most and now, by whether they are under a limit.
        self._most_beside = {False: MOST_HANGING, True: capacity * LIMITED_PER_PLACE}
        self._beside = Counter[bool]()

    async def take(self) -> None:
        """Waits until a place is free, and takes it."""
        await self._free.acquire()

    async def take_if_free(self) -> bool:
        """Takes a place if there is a free one, without waiting."""
        if self._free.locked():
            return False
        await self._free.acquire()  # does not wait: nothing else ran since the line above
        return True

    def free(self) -> None:
        """Returns a place whose batch was not claimed, or was given back at once."""
        self._free.release()

    def give_up(self, held: HeldBatch) -> bool:
        """The batch only waits from here on. False if it has no place, or must keep it."""
        limited = held.claim.is_limited
        if not held.has_place or self._beside[limited] >= self._most_beside[limited]:
            return False
        self._beside[limited] += 1
        held.give_place_up()
        self._free.release()
        return True

    def end(self, held: HeldBatch) -> None:
        """The batch has ended."""
        if held.has_place:
            held.give_place_up()
            self._free.release()
        else:
            self._beside[held.claim.is_limited] -= 1

"""Gives positions to what projects are told, and deletes it after its retention."""

import asyncio
from collections.abc import Callable, Collection
from contextlib import suppress
from uuid import UUID

from services.dispatcher.metrics import DispatcherMetrics
from shared.ledger import outbox
from shared.ledger.database import Ledger

PLACE_SECONDS = 0.5
"""Each time holds up the senders a little."""
IDLE_PLACE_SECONDS = 10.0
"""While no batch is out, only people and programs make facts, and the rounds see their rows."""
FORGET_SECONDS = 10.0

ROWS_FORGOTTEN = 500
"""Rows of each project deleted at once: 10 s of 50 group commits a second."""


class OutboxClerk:
    """Several dispatchers may do it: the lock of a project's stream puts them in order."""

    def __init__(
        self,
        ledger: Ledger,
        metrics: DispatcherMetrics,
        kept_seconds: float,
        out_lately: Callable[[], Collection[UUID]] | None = None,
        retention_days: int = 0,
        unplaced: asyncio.Event | None = None,
    ) -> None:
        self._ledger = ledger
        self._metrics = metrics
        self._kept_seconds = kept_seconds
        #: Of projects that set none; 0: for ever.
        self._retention_days = retention_days
        #: Campaigns that have batches out, or had until a moment ago.
        self._out_lately = out_lately
        #: There are rows without a position.
        self._unplaced = unplaced or asyncio.Event()

    async def place(self) -> None:
        """A tick: gives positions to all committed rows."""
        if self._out_lately is not None and not self._out_lately():
            with suppress(TimeoutError):
                async with asyncio.timeout(IDLE_PLACE_SECONDS):
                    await self._unplaced.wait()
        self._unplaced.clear()
        self._metrics.events_placed.inc(await outbox.place(self._ledger))

    async def forget(self) -> None:
        """A tick: deletes some of the oldest rows, if they are past their retention."""
        while deleted := await outbox.forget(
            self._ledger, self._kept_seconds, ROWS_FORGOTTEN, default_days=self._retention_days
        ):
            self._metrics.events_forgotten.inc(deleted)

"""Rolls up the batches of large campaigns that rest: see shared.ledger.rollups."""

import time
from collections.abc import Callable, Collection
from uuid import UUID

from shared.ledger import rollups
from shared.ledger.database import Ledger

LOOK_SECONDS = 5.0

ALL_SECONDS = 60.0
"""How often all campaigns are looked at: reports take batches of those that are closed out again."""

MOST_CAMPAIGNS = 1000
"""If more have batches out, all are looked at: a statement takes only so many ids."""


class Rollups:
    """Several dispatchers may do it: each takes batches that no other has locked."""

    def __init__(self, ledger: Ledger, out_lately: Callable[[], Collection[UUID]]) -> None:
        self._ledger = ledger
        #: Campaigns that have batches out, or had until a moment ago.
        self._out_lately = out_lately
        #: When all were looked at, in monotonic seconds.
        self._all_at = float("-inf")

    async def tick(self) -> None:
        now, among = time.monotonic(), self._among()
        if among is not None and not among:
            return
        async with self._ledger.read() as connection:
            due = await rollups.due(connection, among)
        for campaign_id in due:
            while await rollups.roll_up(self._ledger, campaign_id) == rollups.BATCHES_AT_ONCE:
                pass
        if among is None:
            self._all_at = now

    def _among(self) -> Collection[UUID] | None:
        """The campaigns to look at; None: all."""
        if time.monotonic() - self._all_at >= ALL_SECONDS:
            return None
        out = self._out_lately()
        return out if len(out) <= MOST_CAMPAIGNS else None

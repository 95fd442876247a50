"""Which campaigns a round looks at, so that it costs what is to be done and not what is open.

This is only memory: the ledger decides, and a campaign that was forgotten here is found on the next lap.
"""

import heapq
import time
from collections.abc import Collection, Iterable
from uuid import UUID

AGAIN_SECONDS = 1.0
"""A campaign on which something failed, or that its limits hold back, is looked at again after this time."""

SAME_SECONDS = 0.1
"""Two moments that are closer than this are one."""

MOST_NAMED = 100_000
"""Campaigns that are kept until a round looks at them, at most. Events may name any number while the database is away;
the lap finds the others."""

OUT_LATELY_SECONDS = 5.0
"""What happened to a batch is looked for this long after it came back."""


class Agenda:
    """Campaigns to look at: those that events name, those whose time has come, those with batches out, and with each
    tick of the clock the next ones of a lap over all that are open."""

    def __init__(self) -> None:
        self._named: set[UUID] = set()
        #: When to look at a campaign, in monotonic seconds; and the same in order, with entries that are out of date.
        self._at: dict[UUID, float] = {}
        self._later: list[tuple[float, UUID]] = []
        #: Campaigns that had batches out at the last look: what has happened to those batches is to be seen.
        self._was_out: set[UUID] = set()
        #: When campaigns last had batches out, in monotonic seconds; for OUT_LATELY_SECONDS.
        self._out_at: dict[UUID, float] = {}
        #: The last campaign of the lap under way; None: a new lap begins.
        self.lap_at: UUID | None = None
        self.laps = 0

    def name(self, campaign_id: UUID) -> None:
        """Something has changed: the next round looks at it."""
        if len(self._named) < MOST_NAMED:
            self._named.add(campaign_id)

    def look_in(self, campaign_id: UUID, seconds: float) -> None:
        """The first round after this time looks at it."""
        at = time.monotonic() + seconds
        if at < self._at.get(campaign_id, float("inf")) - SAME_SECONDS:
            self._at[campaign_id] = at
            heapq.heappush(self._later, (at, campaign_id))

    def take(self) -> set[UUID]:
        """The campaigns for this round. If it fails, they are to be named again."""
        taken = self._named | self._was_out
        self._named = set()
        now = time.monotonic()
        while self._later and self._later[0][0] <= now:
            at, campaign_id = heapq.heappop(self._later)
            if self._at.get(campaign_id) == at:
                del self._at[campaign_id]
                taken.add(campaign_id)
        return taken

    def name_all(self, campaign_ids: Iterable[UUID]) -> None:
        for campaign_id in campaign_ids:
            self.name(campaign_id)

    def are_out(self, campaign_ids: Collection[UUID]) -> None:
        """The campaigns with batches out at the end of a round."""
        self._was_out = set(campaign_ids)
        now = time.monotonic()
        self._out_at = {known: at for known, at in self._out_at.items() if now - at < OUT_LATELY_SECONDS}
        self._out_at |= dict.fromkeys(self._was_out, now)

    def out_lately(self) -> Collection[UUID]:
        """The campaigns with batches out within the last OUT_LATELY_SECONDS: only these get results."""
        return self._out_at.keys()

    def lap(self, found: Collection[UUID], most: int) -> bool:
        """Notes the next campaigns of a lap; returns whether it has come to the end, because they are fewer."""
        self.lap_at = max(found) if len(found) == most else None
        self.laps += self.lap_at is None
        return self.lap_at is None

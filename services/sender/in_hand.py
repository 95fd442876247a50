"""All batches this process holds, and the two signals between the parts that work on them."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from services.sender.hand import Hand
from services.sender.metrics import SenderMetrics
from shared import logs
from shared.ledger.database import in_a_line, is_unavailable

RETRY_SECONDS = 0.25

T = TypeVar("T")
log = logs.get()


@dataclass(slots=True)
class InHand:
    """The batches in hand. `recordable`: results or intents wait for the ledger. `wake`: an email may be able to start.

    `emails_done` counts recipients closed or put off since the process began."""

    metrics: SenderMetrics
    hands: deque[Hand] = field(default_factory=deque)
    recordable: asyncio.Event = field(default_factory=asyncio.Event)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    draining: bool = False
    emails_done: int = 0

    def unrecorded(self) -> int:
        """Results that the ledger does not have yet: what a crash at this instant would send twice."""
        return sum(hand.unrecorded for hand in self.hands)

    def in_flight(self) -> int:
        """Emails that have started and have no result yet."""
        return sum(len(hand.in_flight) for hand in self.hands)

    def rouse(self) -> None:
        """Lets everyone who waits for an email ask again."""
        self.wake.set()
        self.wake.clear()

    def lose(self, hand: Hand) -> None:
        """Another has the batch: no further email of it starts here."""
        if not hand.lost:
            hand.lost = True
            self.metrics.lease_lost.inc()
            log.warning(
                "lease.lost",
                campaign_id=str(hand.claim.campaign_id),
                batch_id=hand.claim.batch_id,
                generation=hand.claim.generation,
            )
        hand.changed.set()


async def insist(attempt: Callable[[], Awaitable[T]]) -> T:
    """Repeats what fails because the database is away: what is in hand is kept, and nothing else starts meanwhile."""
    while True:
        try:
            return await attempt()
        except Exception as error:
            if not is_unavailable(error):
                raise
            log.warning("database.unreachable", error=in_a_line(error))
            await asyncio.sleep(RETRY_SECONDS)

"""All batches this process holds, and the two signals between the parts that work on them."""

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from uuid import UUID

from services.sender.held_batch import HeldBatch, StopCause
from services.sender.metrics import SenderMetrics
from shared import logs
from shared.events import BatchProgress

log = logs.get()

DRAINING = "this process is stopping"


class HeldBatches:
    """The held batches in the order in which they are asked for emails."""

    def __init__(self, metrics: SenderMetrics) -> None:
        self.metrics = metrics
        #: Results, intents or withdrawals wait for the ledger. The recorder clears it.
        self.recordable = asyncio.Event()
        self._wake = asyncio.Event()
        self._batches: deque[HeldBatch] = deque()
        self._is_draining = False
        self._emails_done = 0

    def __iter__(self) -> Iterator[HeldBatch]:
        return iter(tuple(self._batches))

    def __contains__(self, held: HeldBatch) -> bool:
        return held in self._batches

    def __len__(self) -> int:
        return len(self._batches)

    def add(self, held: HeldBatch) -> None:
        """A claimed batch; one that is claimed while the process drains starts no email."""
        self._batches.append(held)
        if self._is_draining:
            held.stop_for(StopCause.DRAINING, DRAINING)
        self.count_places()

    def remove(self, held: HeldBatch) -> None:
        """The batch was let go, or lost."""
        self._batches.remove(held)
        self.count_places()

    def next_in_turn(self) -> HeldBatch:
        """The first batch, which moves to the end. Raises IndexError if there is none."""
        held = self._batches[0]
        self._batches.rotate(-1)
        return held

    @property
    def is_draining(self) -> bool:
        """No batch is claimed and no email starts any more."""
        return self._is_draining

    def drain(self) -> None:
        """From now on no email starts."""
        self._is_draining = True
        for held in self._batches:
            held.stop_for(StopCause.DRAINING, DRAINING)

    def lose(self, held: HeldBatch) -> None:
        """Another sender has the batch."""
        if held.is_lost:
            return
        held.stop_for(StopCause.LOST, "another sender has it")
        self.metrics.lease_lost.inc()
        log.warning(
            "lease.lost",
            campaign_id=str(held.claim.campaign_id),
            batch_id=held.claim.batch_id,
            generation=held.claim.generation,
        )

    @property
    def emails_done(self) -> int:
        """Recipients that were closed or deferred since the process began."""
        return self._emails_done

    def note_result(self) -> None:
        """A recipient was closed or deferred: the recorder has work."""
        self._emails_done += 1
        self.recordable.set()

    def in_doubt(self) -> tuple[int, int]:
        """Emails that a crash now would lose track of: those with an unrecorded result, and those in flight."""
        unrecorded = in_flight = 0
        for held in self._batches:
            unrecorded += held.unrecorded.count
            in_flight += held.in_flight_count
        return unrecorded, in_flight

    def in_doubt_of(self, campaign_id: UUID) -> int:
        """Those of one campaign."""
        mine = [held for held in self._batches if held.claim.campaign_id == campaign_id]
        return sum(held.unrecorded.count + held.in_flight_count for held in mine)

    def stop_campaign(self, campaign_id: UUID, why: str) -> None:
        """No further email of a campaign starts here."""
        for held in self._batches:
            if held.claim.campaign_id == campaign_id:
                held.stop_for(StopCause.NOT_SENDING, why)

    def progress(self, now: float) -> Sequence[BatchProgress]:
        """What a heartbeat says about each batch."""
        return [held.progress(now) for held in self._batches]

    def count_places(self) -> None:
        """Shows in the metrics how many batches have a place."""
        self.metrics.batches.set(sum([held.has_place for held in self._batches]))

    def wake_feed(self) -> None:
        """An email may be able to start: everyone who waits for one asks again."""
        self._wake.set()
        self._wake.clear()

    async def wait_for_email(self) -> None:
        """Returns when an email may be able to start."""
        await self._wake.wait()

"""All batches this process holds, and the two signals between the parts that work on them."""

import asyncio
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import chain
from uuid import UUID

from services.sender.held_batch import HeldBatch, StopCause
from services.sender.metrics import SenderMetrics
from shared import logs
from shared.events import BatchProgress

log = logs.get()

DRAINING = "this process is stopping"


class HeldBatches:
    """The held batches in the order in which they are asked for emails."""

    def __init__(self, metrics: SenderMetrics, group_size: int = 1) -> None:
        self.metrics = metrics
        metrics.in_flight.set_function(lambda: self.in_doubt()[1])
        #: Results, intents or withdrawals wait for the ledger. The recorder clears it.
        self.recordable = asyncio.Event()
        #: They are enough for a commit, or something waits for them. The recorder clears it.
        self.group_is_ready = asyncio.Event()
        self._group_size = group_size
        self._in_group = 0
        self._wake = asyncio.Event()
        #: By campaign, in the order in which they were claimed. The campaigns take turns.
        self._batches: OrderedDict[UUID, list[HeldBatch]] = OrderedDict()
        self._is_draining = False
        self._emails_done = 0

    def __iter__(self) -> Iterator[HeldBatch]:
        return iter(tuple(self._all()))

    def __contains__(self, held: HeldBatch) -> bool:
        return held in self._batches.get(held.claim.campaign_id, ())

    def __len__(self) -> int:
        return sum(map(len, self._batches.values()))

    def _all(self) -> Iterator[HeldBatch]:
        return chain.from_iterable(self._batches.values())

    def add(self, held: HeldBatch) -> None:
        """A claimed batch; one that is claimed while the process drains starts no email."""
        self._batches.setdefault(held.claim.campaign_id, []).append(held)
        if self._is_draining:
            held.stop_for(StopCause.DRAINING, DRAINING)
        self.count_places()

    def remove(self, held: HeldBatch) -> None:
        """The batch was let go, or lost."""
        mine = self._batches[held.claim.campaign_id]
        mine.remove(held)
        if not mine:
            del self._batches[held.claim.campaign_id]
        self.count_places()

    def in_turn(self) -> Iterator[HeldBatch]:
        """The batches in the order in which they are asked for an email: those of the campaign that has waited longest
        first, the oldest of them first. So a small campaign gets as much as a large one, and a batch ends soon."""
        for _ in range(len(self._batches)):
            campaign_id, mine = next(iter(self._batches.items()))
            self._batches.move_to_end(campaign_id)
            yield from mine

    @property
    def is_draining(self) -> bool:
        """No batch is claimed and no email starts any more."""
        return self._is_draining

    def drain(self) -> None:
        """From now on no email starts."""
        self._is_draining = True
        for held in self._all():
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
        self._in_group += 1
        self.recordable.set()
        if self._in_group >= self._group_size:
            self.group_is_ready.set()

    def record_now(self) -> None:
        """Something waits for what is recorded next."""
        self.recordable.set()
        self.group_is_ready.set()

    def begin_group(self) -> None:
        """The recorder takes everything that waits."""
        self._in_group = 0
        self.group_is_ready.clear()

    def in_doubt(self) -> tuple[int, int]:
        """Emails that a crash now would lose track of: those with an unrecorded result, and those in flight."""
        unrecorded = in_flight = 0
        for held in self._all():
            unrecorded += held.unrecorded.in_doubt
            in_flight += held.in_flight_count
        return unrecorded, in_flight

    def in_doubt_of(self, campaign_id: UUID) -> int:
        """Those of one campaign."""
        mine = self._batches.get(campaign_id, ())
        return sum(held.unrecorded.in_doubt + held.in_flight_count for held in mine)

    def stop_campaign(self, campaign_id: UUID, why: str) -> None:
        """No further email of a campaign starts here."""
        for held in self._batches.get(campaign_id, ()):
            held.stop_for(StopCause.NOT_SENDING, why)

    def progress(self, now: float) -> Sequence[BatchProgress]:
        """What a heartbeat says about each batch."""
        return [held.progress(now) for held in self._all()]

    def count_places(self) -> None:
        """Shows in the metrics how many batches have a place."""
        self.metrics.batches.set(sum([held.has_place for held in self._all()]))

    def wake_feed(self) -> None:
        """An email may be able to start: everyone who waits for one asks again."""
        self._wake.set()
        self._wake.clear()

    async def wait_for_email(self) -> None:
        """Returns when an email may be able to start."""
        await self._wake.wait()

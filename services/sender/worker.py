"""The sender's work: claims batches, stays with each to its end, lets go."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from services.sender.campaigns import Campaigns
from services.sender.db import claims
from services.sender.db.claims import Claim
from services.sender.db.worklist import read_worklist
from services.sender.hand import FAULT_PAUSE_SECONDS, Hand
from services.sender.in_hand import InHand, insist
from shared import logs
from shared.bus import Bus
from shared.errors import VashSenderError
from shared.events import BatchFinished, BatchProgress, BatchReleased, BatchRequeued, CampaignRequested
from shared.ledger import campaigns, timeline
from shared.ledger.database import Ledger
from shared.ledger.models import LONGEST_REPLY
from shared.ledger.states import CampaignStatus
from shared.metrics import Metrics
from shared.settings import SenderSettings

FLUSH_SECONDS = 10.0
"""How long a stopping process tries to record and give back; afterwards its leases run out."""

BESIDE_SLOTS = 64
"""Batches a process works on beside those in its slots. They only wait: a limited one for its next moment, one whose
emails have all started for replies. So a relay that keeps one email hanging does not keep the batches behind it."""

USUAL_REPLY_SECONDS = 0.1
"""A batch that waits longer than this for its last replies has the dispatcher release another in its stead."""

T = TypeVar("T")
log = logs.get()


class Worker:
    """The batches of one process. `batches_done` counts those let go since it began. While `blocked` says that no relay
    can be used, it claims nothing: whoever has one that can takes it."""

    def __init__(
        self,
        settings: SenderSettings,
        database: Ledger,
        bus: Bus,
        campaigns: Campaigns,
        in_hand: InHand,
        owner: str,
        common: Metrics,
        blocked: Callable[[], bool] = lambda: False,
    ) -> None:
        self._settings = settings
        self._ledger = database
        self._bus = bus
        self._campaigns = campaigns
        self._in_hand = in_hand
        self._owner = owner
        self._common = common
        self._blocked = blocked
        self._slots = asyncio.Semaphore(settings.batches_in_hand)
        self._beside = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self.batches_done = 0

    async def take_up(self) -> Sequence[BatchRequeued]:
        """What our former self held goes on here at once, no ticket is waited for; what must not go on is given back,
        and told by the events returned. Only for who holds the lock of the slot, before the first ticket comes."""
        before = time.monotonic()
        resumed, events = await insist(self._take_up)
        for claim in resumed:
            await self._slots.acquire()
            await self._begin(claim, before)
        if resumed or events:
            self._in_hand.metrics.taken_up.inc(len(resumed) + len(events))
            log.warning("batches.taken_back", resumed=len(resumed), given_back=len(events))
        return events

    async def on_ticket(self, ticket: BatchReleased) -> None:
        """Claims the batch and stays with it while it takes up a slot, so that prefetch bounds the batches in hand.
        Losing the broker cancels this handler, not the work: the ticket comes again and is found stale. What is not
        claimed now for want of a relay, a clock turn will find."""
        await self._slots.acquire()
        if self._blocked():
            self._slots.release()
            return
        hand = await asyncio.shield(self._own(self._start(ticket.batch_id, ticket.generation)))
        if hand is not None:
            self._common.wakeups.labels("event").inc()
            await hand.freed.wait()

    async def clock_turn(self) -> None:
        """Claims released batches whose ticket does not come: lost, purged, dropped, or the broker is away."""
        while not self._slots.locked() and not self._in_hand.draining and not self._blocked():
            found = await claims.overlooked(self._ledger, self._settings.ticket_patience_seconds, limit=1)
            if not found:
                return
            await self._slots.acquire()
            if await self._own(self._start(found[0].batch_id, found[0].generation)) is not None:
                self._common.wakeups.labels("clock").inc()

    def progress(self) -> Sequence[BatchProgress]:
        """What is in hand, for the heartbeat."""
        now = time.monotonic()
        return [
            BatchProgress(
                batch_id=hand.claim.batch_id,
                campaign_id=hand.claim.campaign_id,
                generation=hand.claim.generation,
                done=hand.done,
                in_flight=len(hand.in_flight),
                idle_seconds=now - hand.last_progress,
                age_seconds=now - hand.claimed_at,
            )
            for hand in self._in_hand.hands
        ]

    def stop(self, reason: str) -> None:
        """No further email starts."""
        self._in_hand.draining = True
        for hand in self._in_hand.hands:
            hand.stop = hand.stop or reason
            hand.changed.set()

    async def finish(self) -> None:
        """Waits until what is in hand is recorded and given back, for at most FLUSH_SECONDS."""
        with suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_SECONDS):
                while self._tasks:
                    await asyncio.wait(self._tasks)

    async def _take_up(self) -> tuple[Sequence[Claim], Sequence[BatchRequeued]]:
        settings = self._settings
        async with self._ledger.write() as connection:
            resumed = await claims.resume(connection, self._owner, settings.lease_seconds, settings.batches_in_hand)
            given_back = await claims.take_back(connection, self._owner, resumed)
            for claim in resumed:
                await timeline.record(
                    connection, claim.campaign_id, "rescued", "A sender started again and goes on with what it had held"
                )
            for batch in given_back:
                await timeline.record(
                    connection, batch.campaign_id, "rescued", "A sender started again and gave back what it had held"
                )
        return resumed, [
            BatchRequeued(
                batch_id=batch.batch_id,
                campaign_id=batch.campaign_id,
                generation=batch.generation,
                reason="the sender started again",
            )
            for batch in given_back
        ]

    async def _start(self, batch_id: int, generation: int) -> Hand | None:
        """Uses up one slot, which it holds only for a moment where the ticket is stale."""
        claim, before = None, time.monotonic()
        try:
            if not self._in_hand.draining:
                lease = self._settings.lease_seconds
                claim = await insist(lambda: claims.claim(self._ledger, batch_id, generation, self._owner, lease))
        finally:
            if claim is None:
                self._slots.release()
        return await self._begin(claim, before) if claim is not None else None

    async def _begin(self, claim: Claim, before: float) -> Hand | None:
        """Begins to work on a batch that is ours since `before`, in a slot. None: its emails cannot be made."""
        facts = None
        try:
            facts = await insist(lambda: self._campaigns.get(claim.campaign_id))
        except (VashSenderError, ValueError) as error:
            reason = f"its emails cannot be made: {error}"
            await insist(lambda: self._pause(claim.campaign_id, reason))
            await insist(lambda: self._give_back(claim))
        finally:
            if facts is None:
                self._slots.release()
        if facts is None:
            return None
        hand = Hand(claim, facts, claimed_at=before, renewed_at=before, looked_at=before)
        self._own(self._work(hand)).add_done_callback(partial(self._ended, hand))
        if claim.span_seconds is not None:
            self._free_slot(hand)
        return hand

    def _free_slot(self, hand: Hand) -> bool:
        """The batch only waits from here on: another may begin. False: it had no slot, or must keep it."""
        if hand.freed.is_set() or self._beside >= BESIDE_SLOTS:
            return False
        hand.freed.set()
        self._beside += 1
        self._slots.release()
        self._count_slots()
        return True

    def _own(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task that whoever waits for it may leave, and that `finish` waits for."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _tell_if_kept_waiting(self, hand: Hand) -> None:
        await asyncio.sleep(USUAL_REPLY_SECONDS)
        if hand in self._in_hand.hands:
            await self._bus.publish(CampaignRequested(campaign_id=hand.claim.campaign_id))

    def _ended(self, hand: Hand, task: asyncio.Task[None]) -> None:
        if hand.freed.is_set():
            self._beside -= 1
        else:
            hand.freed.set()
            self._slots.release()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("batch.failed", exc_info=error)

    def _count_slots(self) -> None:
        self._in_hand.metrics.batches.set(sum(not hand.freed.is_set() for hand in self._in_hand.hands))

    async def _work(self, hand: Hand) -> None:
        """One batch from claim to finish."""
        claim, in_hand = hand.claim, self._in_hand
        in_hand.hands.append(hand)
        self._count_slots()
        told = log.bind(campaign_id=str(claim.campaign_id), batch_id=claim.batch_id, generation=claim.generation)
        told.info("batch.claimed", size=claim.size)
        if in_hand.draining:
            hand.stop = "this process is stopping"
        try:
            while not hand.over:
                if self._wants_slice(hand):
                    await self._load_slice(hand)
                else:
                    if hand.all_started and self._free_slot(hand):
                        self._own(self._tell_if_kept_waiting(hand))
                    await hand.changed.wait()
                    hand.changed.clear()
            if hand.refused:
                await insist(lambda: self._pause(claim.campaign_id, hand.refused))
            state = "lost" if hand.lost else await insist(lambda: self._let_go(hand))
        finally:
            in_hand.hands.remove(hand)
            self._count_slots()
            in_hand.metrics.batch.observe(time.monotonic() - hand.claimed_at)
        told.info("batch.finished", state=state, why=hand.stop or None, **hand.tally)
        self.batches_done += 1
        await self._bus.publish(
            BatchFinished(batch_id=claim.batch_id, campaign_id=claim.campaign_id, generation=claim.generation)
        )

    def _wants_slice(self, hand: Hand) -> bool:
        low = len(hand.worklist) < self._settings.slice_size // 2
        return low and not hand.exhausted and not hand.stop and not hand.lost

    async def _load_slice(self, hand: Hand) -> None:
        limit = self._settings.slice_size
        rows = await insist(
            lambda: read_worklist(self._ledger, hand.claim, hand.facts.project_id, hand.after_id, limit)
        )
        hand.exhausted = len(rows) < limit
        if rows:
            hand.after_id = rows[-1].id
            hand.worklist.extend(rows)
            self._in_hand.rouse()

    async def _let_go(self, hand: Hand) -> str:
        campaign_id = hand.claim.campaign_id
        jitter = hand.facts.retries.delay_seconds * self._settings.retry_jitter * _share(hand.claim.batch_id)
        async with self._ledger.write() as connection:
            left = await claims.let_go(
                connection,
                hand.claim,
                retry_jitter_seconds=jitter,
                pause_seconds=FAULT_PAUSE_SECONDS if hand.left_for_later and not hand.stop else 0.0,
            )
            if left.deferred:
                await timeline.record(connection, campaign_id, "deferred", f"{left.deferred} will be tried again")
            if hand.yielded:
                await timeline.record(connection, campaign_id, "yielded", f"A batch was given back: {hand.yielded}")
        if left.state == "lost":
            self._in_hand.lose(hand)
        return left.state

    async def _give_back(self, claim: Claim) -> None:
        async with self._ledger.write() as connection:
            await claims.let_go(connection, claim, retry_jitter_seconds=0.0, pause_seconds=0.0)

    async def _pause(self, campaign_id: UUID, reason: str) -> None:
        async with self._ledger.write() as connection:
            if await campaigns.move(
                connection,
                campaign_id,
                CampaignStatus.PAUSED,
                from_=(CampaignStatus.SENDING,),
                reason=reason[:LONGEST_REPLY],
            ):
                await timeline.record(connection, campaign_id, "paused", reason)
        log.warning("campaign.paused", campaign_id=str(campaign_id), reason=reason)
        await self._bus.publish(CampaignRequested(campaign_id=campaign_id))


def _share(number: int) -> float:
    """A share of 1 that differs from batch to batch, and is the same each time."""
    return (number * 0x9E3779B1 % 2**32) / 2**32

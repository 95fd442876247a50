"""The sender's work: claims batches, stays with each to its end, lets go."""

import asyncio
import time
from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import update
from sqlmodel import col

from services.sender import ledger
from services.sender.campaigns import Campaigns
from services.sender.hand import FAULT_PAUSE_SECONDS, Hand
from services.sender.in_hand import InHand, insist
from shared import logs
from shared.bus import Bus
from shared.events import BatchFinished, BatchProgress, BatchReleased, CampaignRequested
from shared.ledger import timeline
from shared.ledger.database import Ledger
from shared.ledger.models import LONGEST_REPLY, Campaign
from shared.ledger.states import CampaignStatus
from shared.metrics import Metrics
from shared.settings import SenderSettings

FLUSH_SECONDS = 10.0
"""How long a stopping process tries to record and give back; afterwards its leases run out."""

log = logs.get()


class Worker:
    """The batches of one process. `batches_done` counts those let go since it began."""

    def __init__(
        self,
        settings: SenderSettings,
        database: Ledger,
        bus: Bus,
        campaigns: Campaigns,
        in_hand: InHand,
        owner: str,
        common: Metrics,
    ) -> None:
        self._settings = settings
        self._ledger = database
        self._bus = bus
        self._campaigns = campaigns
        self._in_hand = in_hand
        self._owner = owner
        self._common = common
        self._slots = asyncio.Semaphore(settings.batches_in_hand)
        self._tasks: set[asyncio.Task[None]] = set()
        self.batches_done = 0

    async def on_ticket(self, ticket: BatchReleased) -> None:
        """Claims the batch and stays with it to its end, so that prefetch bounds the batches in hand. Losing the broker
        cancels this handler, not the work: the ticket comes again and is found stale."""
        await self._slots.acquire()
        task = await self._start(ticket.batch_id, ticket.generation)
        if task is not None:
            self._common.wakeups.labels("event").inc()
            await asyncio.shield(task)

    async def clock_turn(self) -> None:
        """Claims released batches whose ticket does not come: lost, purged, or the broker is away."""
        while not self._slots.locked() and not self._in_hand.draining:
            found = await ledger.overlooked(self._ledger, self._settings.ticket_patience_seconds, limit=1)
            if not found:
                return
            await self._slots.acquire()
            if await self._start(found[0].batch_id, found[0].generation) is not None:
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
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=FLUSH_SECONDS)

    async def _start(self, batch_id: int, generation: int) -> asyncio.Task[None] | None:
        """Uses up one slot: until the batch's end, or only for a moment where the ticket is stale."""
        task = None
        try:
            hand = await self._claim(batch_id, generation)
            if hand is not None:
                task = asyncio.create_task(self._work(hand))
                self._tasks.add(task)
                task.add_done_callback(self._ended)
            return task
        finally:
            if task is None:
                self._slots.release()

    async def _claim(self, batch_id: int, generation: int) -> Hand | None:
        if self._in_hand.draining:
            return None
        settings, before = self._settings, time.monotonic()
        claim = await insist(
            lambda: ledger.claim(self._ledger, batch_id, generation, self._owner, settings.lease_seconds)
        )
        if claim is None:
            return None
        facts = await insist(lambda: self._campaigns.get(claim.campaign_id))
        return Hand(claim=claim, facts=facts, claimed_at=before, renewed_at=before, looked_at=before)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._slots.release()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("batch.failed", exc_info=error)

    async def _work(self, hand: Hand) -> None:
        """One batch from claim to finish."""
        claim, in_hand = hand.claim, self._in_hand
        in_hand.hands.append(hand)
        in_hand.metrics.batches.set(len(in_hand.hands))
        told = log.bind(campaign_id=str(claim.campaign_id), batch_id=claim.batch_id, generation=claim.generation)
        told.info("batch.claimed", size=claim.size)
        if in_hand.draining:
            hand.stop = "this process is stopping"
        try:
            while not hand.over:
                if self._wants_slice(hand):
                    await self._load_slice(hand)
                else:
                    await hand.changed.wait()
                    hand.changed.clear()
            if hand.refused:
                await insist(lambda: self._pause(claim.campaign_id, hand.refused))
            state = "lost" if hand.lost else await insist(lambda: self._let_go(hand))
        finally:
            in_hand.hands.remove(hand)
            in_hand.metrics.batches.set(len(in_hand.hands))
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
            lambda: ledger.worklist(self._ledger, hand.claim, hand.facts.project_id, hand.after_id, limit)
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
            left = await ledger.let_go(
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

    async def _pause(self, campaign_id: UUID, reason: str) -> None:
        async with self._ledger.write() as connection:
            changed = await connection.execute(
                update(Campaign)
                .where(col(Campaign.id) == campaign_id, col(Campaign.status) == CampaignStatus.SENDING.value)
                .values(status=CampaignStatus.PAUSED.value, reason=reason[:LONGEST_REPLY])
            )
            if changed.rowcount:
                await timeline.record(connection, campaign_id, "paused", reason)
        log.warning("campaign.paused", campaign_id=str(campaign_id), reason=reason)
        await self._bus.publish(CampaignRequested(campaign_id=campaign_id))


def _share(number: int) -> float:
    """A share of 1 that differs from batch to batch, and is the same each time."""
    return (number * 0x9E3779B1 % 2**32) / 2**32

"""The sender's work on batches: claims them, stays with each to its end, and lets it go."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from operator import attrgetter
from typing import Any, TypeVar
from uuid import UUID

from services.sender.campaigns import CampaignFacts, Campaigns
from services.sender.db import campaigns as campaigns_db
from services.sender.db import claims
from services.sender.db.claims import Claim
from services.sender.db.prewarm import send_nothing
from services.sender.db.retry import until_available
from services.sender.db.worklist import read_worklist
from services.sender.held_batch import HeldBatch, StopCause
from services.sender.held_batches import HeldBatches
from services.sender.limits import Limits
from services.sender.places import MOST_HANGING, Places
from shared import logs
from shared.errors import VashSenderError
from shared.events import BatchFinished, BatchReleased, BatchRequeued, CampaignRequested
from shared.ledger.batches import Requeued
from shared.ledger.prewarm import prewarm
from shared.process import Process
from shared.settings import SenderSettings
from shared.templates import compile_content

FLUSH_SECONDS = 10.0
"""How long a stopping process tries to record and give back; after that its leases expire."""

USUAL_REPLY_SECONDS = 0.1
"""A batch that waits longer than this for its last replies makes the dispatcher release another meanwhile."""

CONNECTIONS = 1
"""Of the pool, as many as the first batches keep busy: nearly all of their statements go straight to the driver."""

T = TypeVar("T")
log = logs.get()


class Worker:
    """The batches of one process, each in its own task."""

    def __init__(
        self,
        process: Process[SenderSettings],
        campaigns: Campaigns,
        held_batches: HeldBatches,
        limits: Limits,
        owner: str,
        blocked_reason: Callable[[str | None], str | None],
    ) -> None:
        self._process = process
        self._settings = process.settings
        self._ledger = process.ledger
        self._bus = process.bus
        self._wakeups = process.metrics.wakeups
        self._campaigns = campaigns
        self._batches = held_batches
        self._limits = limits
        self._owner = owner
        #: By group of relays, or None for all of them. While it gives a reason for all nothing is claimed, so that a
        #: sender with an available relay takes the batch.
        self._blocked_reason = blocked_reason
        self._places = Places(self._settings.batches_in_hand)
        self._tasks: set[asyncio.Task[Any]] = set()
        #: Held batches whose campaign was paused because its mail is refused.
        self._paused: set[HeldBatch] = set()
        #: Batches let go since the process began.
        self._batches_done = 0
        #: Batches this slot held before the restart that were requeued.
        self._requeued: Sequence[Requeued] = ()

    async def resume(self) -> None:
        """Resumes the batches this slot held before the restart, without waiting for tickets, and requeues those it
        must not resume. It may have held more than it has places: the older ones then have none again.

        Call it before the first ticket comes, and only under the slot's lock."""
        before = time.monotonic()
        places = self._settings.batches_in_hand
        resumed, self._requeued = await until_available(
            lambda: claims.resume(self._ledger, self._owner, self._settings.lease_seconds, places + MOST_HANGING)
        )
        by_age = sorted(resumed, key=attrgetter("batch_id"))
        without_place = [claim for claim in by_age if not claim.is_limited][:-places]
        for claim in by_age:
            await self._places.take()
            held = await self._begin(claim, before)
            if held is not None and claim in without_place:
                self._give_place_up(held)
        if resumed or self._requeued:
            self._batches.metrics.resumed.inc(len(resumed) + len(self._requeued))
            log.warning("batches.taken_back", resumed=len(resumed), given_back=len(self._requeued))

    async def prewarm(self) -> None:
        """Executes the statements of a batch once, and compiles a content: the first time takes twice as long. Call it
        before the clocks begin."""
        compile_content("{{ a|default('b') }}", "<p>{{ a }}", "{{ a }}")
        await prewarm(self._ledger, partial(send_nothing, relay_scopes=self._limits.relay_scopes), CONNECTIONS)

    async def begin(self) -> None:
        """Publishes what `resume` requeued, once the broker is connected."""
        await self._bus.connected.wait()
        for batch in self._requeued:
            await self._bus.publish(
                BatchRequeued(
                    batch_id=batch.batch_id,
                    campaign_id=batch.campaign_id,
                    generation=batch.generation,
                    reason="the sender restarted",
                )
            )

    async def on_ticket(self, ticket: BatchReleased) -> None:
        """Claims the batch and returns when it gives its place up, so that prefetch bounds the batches held.

        Losing the broker cancels this handler but not the work: the ticket comes again and is found stale. A batch not
        claimed because no relay is available is found later by `tick`."""
        await self._places.take()
        if self._blocked_reason(None) is not None:
            self._places.free()
            return
        if not self._batches.is_draining:
            self._own(self._read_ahead(ticket.campaign_id))
        held = await asyncio.shield(self._own(self._claim(ticket.batch_id, ticket.generation)))
        if held is not None:
            self._wakeups.labels("event").inc()
            await held.wait_until_place_given_up()

    async def tick(self) -> None:
        """Claims released batches whose ticket does not come: it was lost, purged or dropped, or the broker is away.
        After enough batches it restarts the process."""
        while self._may_claim() and await self._places.take_if_free():
            if await self._own(self._claim_overlooked()) is None:
                break
            self._wakeups.labels("clock").inc()
        if 0 < self._settings.recycle_after_batches <= self._batches_done:
            self._process.restart()

    def _may_claim(self) -> bool:
        return not self._batches.is_draining and self._blocked_reason(None) is None

    def drain(self) -> None:
        """From now on nothing is claimed and no email starts."""
        self._batches.drain()

    async def finish(self) -> None:
        """Waits until every held batch is recorded and given back, for at most FLUSH_SECONDS."""
        with suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_SECONDS):
                while self._tasks:
                    await asyncio.wait(self._tasks)

    async def _claim_overlooked(self) -> HeldBatch | None:
        """Claims the batch that was released first, if its ticket is late. Needs a place, and frees it if there is
        nothing to claim."""
        found = None
        try:
            found = await claims.overlooked(self._ledger, self._settings.ticket_patience_seconds)
        finally:
            if found is None:
                self._places.free()
        return await self._claim(found.batch_id, found.generation) if found else None

    async def _claim(self, batch_id: int, generation: int) -> HeldBatch | None:
        """Claims a batch. Needs a place, and frees it if the ticket is stale."""
        claim, before = None, time.monotonic()
        lease_seconds = self._settings.lease_seconds
        try:
            if not self._batches.is_draining:
                claim = await until_available(
                    lambda: claims.claim(self._ledger, batch_id, generation, self._owner, lease_seconds)
                )
        finally:
            if claim is None:
                self._places.free()
        return await self._begin(claim, before) if claim is not None else None

    async def _read_ahead(self, campaign_id: UUID) -> None:
        """Reads a campaign, its limits and its content while its batch is claimed. What fails here is repeated by
        `_begin` and `_work`."""
        with suppress(Exception):
            facts = await self._campaigns.get(campaign_id)
            await self._limits.learn(facts.limit_scopes)
            if not self._limits.have_rate(facts.limit_scopes):
                self._expect(facts)

    async def _begin(self, claim: Claim, before: float) -> HeldBatch | None:
        """Begins to work on a batch that was claimed after `before` and has a place. None: its emails cannot be sent,
        and its campaign is paused."""
        facts = None
        try:
            facts = await until_available(lambda: self._campaigns.get(claim.campaign_id))
        except (VashSenderError, ValueError) as error:
            await self._pause(claim.campaign_id, f"its emails cannot be made: {error}")
            await until_available(lambda: claims.let_go(self._ledger, claim, keep_date=not claim.is_newly_dated))
        finally:
            if facts is None:
                self._places.free()
        if facts is None:
            return None
        held = HeldBatch(claim, facts, before)
        if not claim.is_limited:
            self._expect(facts)
        self._own(self._work(held)).add_done_callback(partial(self._ended, held))
        if claim.is_limited:
            self._give_place_up(held)
        return held

    def _expect(self, facts: CampaignFacts) -> None:
        if self._blocked_reason(facts.relay_group) is None:
            self._campaigns.contents.expect(facts.content)

    async def _work(self, held: HeldBatch) -> None:
        """Works on one batch from claim to finish."""
        claim, metrics = held.claim, self._batches.metrics
        batch_log = log.bind(campaign_id=str(claim.campaign_id), batch_id=claim.batch_id, generation=claim.generation)
        self._batches.add(held)
        batch_log.info("batch.claimed", size=claim.size)
        try:
            while not held.is_over:
                if held.stop is None and held.worklist.needs_slice(self._settings.slice_size):
                    await self._read_slice(held)
                    continue
                if held.all_started and self._give_place_up(held):
                    self._own(self._ask_for_another(held))
                elif self._blocked_reason(None) is None and self._blocked_reason(held.facts.relay_group) is not None:
                    self._give_place_up(held)
                await held.wait_for_change()
            if held.stop is not None and held.stop.cause is StopCause.REFUSED and held not in self._paused:
                # The others that are held now must not pause it again, after a person has resumed it.
                self._paused |= {other for other in self._batches if other.claim.campaign_id == claim.campaign_id}
                await self._pause(claim.campaign_id, held.stop.why)
            state = "lost" if held.is_lost else await until_available(lambda: self._let_go(held))
        finally:
            self._batches.remove(held)
            self._paused.discard(held)
            metrics.batch.observe(time.monotonic() - held.claimed_at)
        batch_log.info("batch.finished", state=state, why=held.stop.why if held.stop else None, **held.tally)
        self._batches_done += 1
        await self._bus.publish(
            BatchFinished(
                batch_id=claim.batch_id,
                campaign_id=claim.campaign_id,
                generation=claim.generation,
                emails_per_second=held.pace(time.monotonic()),
            )
        )

    def _ended(self, held: HeldBatch, task: asyncio.Task[None]) -> None:
        self._places.end(held)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("batch.failed", exc_info=error)

    async def _read_slice(self, held: HeldBatch) -> None:
        """Reads the next recipients, and the limits that their emails are under, unless these are known."""
        size = held.worklist.next_rows(self._settings.slice_size)
        project_id, roots = held.facts.project_id, self._settings.hash_roots
        rows, _ = await asyncio.gather(
            until_available(
                lambda: read_worklist(self._ledger, held.claim, project_id, held.worklist.after_id, size, roots)
            ),
            until_available(lambda: self._limits.learn(held.scopes)),
        )
        held.add_slice(rows, size)
        if rows:
            self._batches.wake_feed()

    def _give_place_up(self, held: HeldBatch) -> bool:
        given_up = self._places.give_up(held)
        self._batches.count_places()
        return given_up

    async def _ask_for_another(self, held: HeldBatch) -> None:
        """Makes the dispatcher look, if the batch still waits for replies or its providers after the usual time."""
        await asyncio.sleep(USUAL_REPLY_SECONDS)
        if held.rows_waiting and held in self._batches:
            await until_available(lambda: claims.only_waits(self._ledger, held.claim))
        if held in self._batches:
            await self._bus.publish(CampaignRequested(campaign_id=held.claim.campaign_id))

    async def _let_go(self, held: HeldBatch) -> str:
        out_of_time = held.stop is not None and held.stop.cause is StopCause.OUT_OF_TIME
        left = await claims.let_go(
            self._ledger,
            held.claim,
            # What waits for a provider has its time in a schedule, from which it must not stray.
            retry_jitter=self._settings.retry_jitter * _share(held.claim.batch_id) if held.has_retries else 0.0,
            rest_seconds=held.rest_seconds,
            keep_date=held.keeps_date,
            yielded=held.stop.why if held.stop is not None and out_of_time else "",
        )
        if left.state == "lost":
            self._batches.lose(held)
        return left.state

    async def _pause(self, campaign_id: UUID, reason: str) -> None:
        await until_available(lambda: campaigns_db.pause(self._ledger, campaign_id, reason))
        log.warning("campaign.paused", campaign_id=str(campaign_id), reason=reason)
        await self._bus.publish(CampaignRequested(campaign_id=campaign_id))

    def _own(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task that outlives a cancelled caller, and that `finish` waits for."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _share(number: int) -> float:
    """A number from 0 to 1 that differs from batch to batch and never changes for one."""
    return (number * 0x9E3779B1 % 2**32) / 2**32

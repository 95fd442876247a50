"""Records results as they come: all that has accumulated goes out in one transaction."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from services.sender.db import campaigns
from services.sender.db.record import Group, Judged, Recorded, record
from services.sender.db.retry import until_available
from services.sender.held_batch import HeldBatch
from services.sender.held_batches import HeldBatches
from services.sender.refusals import RefusalWatch
from services.sender.spread import SpreadWatch
from services.sender.unrecorded import Commit
from shared import logs
from shared.faults.breakers import Breaker
from shared.ledger import breakers, spread
from shared.ledger.database import Ledger

GATHER_SECONDS = 0.03
"""How long a result waits for others. A transaction costs as much as recording a hundred results."""

log = logs.get()


class Recorder:
    """One per process. It never gives up on a result: while the database is away results wait, and no email starts."""

    def __init__(
        self,
        ledger: Ledger,
        held_batches: HeldBatches,
        lease_seconds: float,
        refusals: RefusalWatch,
        spread_refusals: SpreadWatch,
        rest_relay: Callable[[str], None],
    ) -> None:
        self._ledger = ledger
        self._refusals = refusals
        self._spread = spread_refusals
        self._rest_relay = rest_relay
        self._batches = held_batches
        self._metrics = held_batches.metrics
        self._lease_seconds = lease_seconds

    async def run(self) -> None:
        recordable = self._batches.recordable
        while True:
            await recordable.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(GATHER_SECONDS):
                    await self._batches.group_is_ready.wait()
            recordable.clear()
            self._batches.begin_group()
            waiting = [held for held in self._batches if held.unrecorded.waits]
            if waiting:
                await self._commit(waiting)
                recordable.set()

    async def _commit(self, waiting: list[HeldBatch]) -> None:
        commits = [(held, held.unrecorded.begin_commit()) for held in waiting]
        noted = dict(self._refusals.take())
        widespread = dict(self._spread.take())
        groups = [
            _group(
                held,
                commit,
                noted.pop(held.claim.campaign_id, ()),
                widespread.pop(held.claim.campaign_id, None),
            )
            for held, commit in commits
        ]
        before = time.monotonic()
        recorded = await until_available(lambda: record(self._ledger, groups, self._lease_seconds))
        self._metrics.commit.observe(time.monotonic() - before)
        self._metrics.group.observe(sum(len(group.results) for group in groups))
        for held, commit in commits:
            self._settle(held, recorded[held.claim.batch_id], before)
            held.unrecorded.end_commit(commit, may_leave=held.stop is None)
            held.note_change()
        for held, _ in commits:
            await self._heed(held, recorded[held.claim.batch_id].judged)
        self._batches.wake_feed()

    async def _heed(self, held: HeldBatch, judged: Judged) -> None:
        """Relays whose breaker has tripped rest, and the campaign is paused; so is one that is refused widely."""
        campaign_id = held.claim.campaign_id
        if judged.tripped:
            self._batches.stop_campaign(campaign_id, "a relay refuses nearly everyone")
            for relay in judged.tripped:
                self._rest_relay(relay)
            if await until_available(lambda: campaigns.pause_for_relay(self._ledger, campaign_id)):
                self._metrics.breaker_trips.labels(Breaker.RELAY.value).inc()
                log.warning("breaker.tripped", campaign_id=str(campaign_id), relays=judged.tripped)
        elif judged.is_widespread:
            self._batches.stop_campaign(campaign_id, "several recipients were refused in the same words")
            if await until_available(lambda: campaigns.pause_for_spread(self._ledger, campaign_id)):
                log.warning("campaign.paused", campaign_id=str(campaign_id), reason="refused in the same words")

    def _settle(self, held: HeldBatch, recorded: Recorded, before: float) -> None:
        if recorded.lost:
            self._batches.lose(held)
        else:
            held.lease.renewed(before)
        self._metrics.recorded(recorded.results)
        if recorded.known_duplicates:
            self._metrics.known_duplicates.inc(recorded.known_duplicates)
            log.warning(
                "email.known_duplicate",
                campaign_id=str(held.claim.campaign_id),
                batch_id=held.claim.batch_id,
                emails=recorded.known_duplicates,
            )


def _group(held: HeldBatch, commit: Commit, noted: Sequence[breakers.Noted], widespread: spread.Noted | None) -> Group:
    claim = held.claim
    return Group(
        claim.batch_id,
        claim.generation,
        claim.campaign_id,
        held.facts.project_id,
        commit.results,
        intents=list(commit.intents),
        withdrawals=commit.withdrawals,
        noted=noted,
        shared_refusals=widespread,
        wants_events=held.wants_events,
    )

"""Records results as they come: all that has accumulated goes out in one transaction, and the next starts at once."""

import time

from services.sender.db.record import Group, Recorded, record
from services.sender.db.retry import until_available
from services.sender.held_batch import HeldBatch
from services.sender.held_batches import HeldBatches
from services.sender.unrecorded import Commit
from shared import logs
from shared.ledger.database import Ledger

log = logs.get()


class Recorder:
    """One per process. It never gives up on a result: while the database is away results wait, and no email starts."""

    def __init__(self, ledger: Ledger, held_batches: HeldBatches, lease_seconds: float) -> None:
        self._ledger = ledger
        self._batches = held_batches
        self._metrics = held_batches.metrics
        self._lease_seconds = lease_seconds

    async def run(self) -> None:
        recordable = self._batches.recordable
        while True:
            await recordable.wait()
            recordable.clear()
            waiting = [held for held in self._batches if held.unrecorded.waits]
            if waiting:
                await self._commit(waiting)
                recordable.set()

    async def _commit(self, waiting: list[HeldBatch]) -> None:
        commits = [(held, held.unrecorded.begin_commit()) for held in waiting]
        groups = [_group(held, commit) for held, commit in commits]
        before = time.monotonic()
        recorded = await until_available(lambda: record(self._ledger, groups, self._lease_seconds))
        self._metrics.commit.observe(time.monotonic() - before)
        self._metrics.group.observe(sum(len(group.results) for group in groups))
        for held, commit in commits:
            self._settle(held, recorded[held.claim.batch_id], before)
            held.unrecorded.end_commit(commit, may_leave=held.stop is None)
            held.note_change()
        self._batches.wake_feed()

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


def _group(held: HeldBatch, commit: Commit) -> Group:
    claim = held.claim
    return Group(
        claim.batch_id,
        claim.generation,
        claim.campaign_id,
        held.facts.project_id,
        commit.results,
        intents=list(commit.intents),
        withdrawals=commit.withdrawals,
    )

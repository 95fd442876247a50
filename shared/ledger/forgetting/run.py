"""Deletes the results of all campaigns that are past their retention, slowly enough that others do not notice."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from shared import logs
from shared.ledger import campaigns
from shared.ledger.database import Ledger
from shared.ledger.forgetting import deletion, due, lease
from shared.ledger.forgetting.deletion import Deleted
from shared.ledger.forgetting.lease import Held
from shared.ledger.models import Campaign
from shared.ledger.states import CampaignStatus

ROWS_AT_ONCE = 1000
"""Rows that one transaction deletes: about 20 ms on PostgreSQL."""

BUSY_PAUSES, IDLE_PAUSES = 9.0, 1.0
"""The pause after a transaction, as a multiple of its time: while something is being sent, and else."""

LONGEST_PAUSE_SECONDS = 10.0

SETTLED_TRANSACTIONS = 1.5

MARKED_AT_ONCE = 1000
"""Campaigns that one call marks, for each number of days."""

log = logs.get()


@dataclass(frozen=True, slots=True)
class Rules:
    """What is deleted, and how carefully."""

    #: Days for which projects that say nothing keep results; 0: for ever.
    default_days: int
    #: For so long the database's clock must have run evenly.
    steady_seconds: float
    #: From the mark of a campaign to its first deletion: longer than any transaction that began before it lasts.
    settled_seconds: float

    @classmethod
    def of(cls, default_days: int, steady_seconds: float, transaction_seconds: float) -> Self:
        """`transaction_seconds`: how long a transaction of any process may last."""
        return cls(default_days, steady_seconds, SETTLED_TRANSACTIONS * transaction_seconds)


@dataclass(slots=True)
class Result:
    """What one call of `run` came to."""

    #: False: another process does it.
    is_ours: bool = True
    #: Why nothing new was marked; empty if the clock is trusted.
    doubt: str = ""
    marked: int = 0
    #: Campaigns of which nothing is left.
    ended: int = 0
    #: Campaigns that were marked too short a time ago.
    waiting: int = 0


class Forgetter:
    """Several processes may call `run`: one of them deletes, and after its end another continues where it was."""

    def __init__(
        self, ledger: Ledger, owner: str, roots: Sequence[bytes], rules: Rules, observe: Callable[[Deleted], None]
    ) -> None:
        self._ledger = ledger
        self._owner = owner
        self._roots = roots
        self._rules = rules
        self._observe = observe

    async def run(self) -> Result:
        """Marks what is past its retention, and deletes what was marked. As long as there is something to delete."""
        async with self._ledger.write() as connection:
            held = await lease.hold(connection, self._owner)
        if held is None:
            return Result(is_ours=False)
        try:
            result = await self._mark(held)
            async with self._ledger.read() as connection:
                ripe = await deletion.unfinished(connection, self._rules.settled_seconds)
                result.waiting = len(await deletion.unfinished(connection, 0.0)) - len(ripe)
            for campaign_id in ripe:
                if not await self._delete(campaign_id):
                    result.is_ours = False
                    break
                result.ended += 1
            return result
        finally:
            async with self._ledger.write() as connection:
                await lease.let_go(connection, self._owner)

    async def _mark(self, held: Held) -> Result:
        result = Result(doubt=held.doubt(self._rules.steady_seconds))
        if result.doubt:
            return result
        async with self._ledger.read() as connection:
            found = await due.due(connection, self._rules.default_days, MARKED_AT_ONCE)
        for one in found:
            async with self._ledger.write() as connection:
                # In the same transaction, so that a process that was stopped for long marks nothing.
                held_still = await lease.hold(connection, self._owner)
                if held_still is None:
                    result.is_ours = False
                    break
                if held_still.doubt(self._rules.steady_seconds) or not await deletion.begin(connection, one):
                    continue
            result.marked += 1
            log.info("campaign.forgotten", campaign_id=str(one.campaign_id), days=one.days)
        return result

    async def _delete(self, campaign_id: UUID) -> bool:
        """Deletes all results of a campaign; False if another process has the lease."""
        while True:
            began_at = time.monotonic()
            async with self._ledger.write() as connection:
                if await lease.hold(connection, self._owner) is None:
                    return False
                deleted = await deletion.delete_some(connection, campaign_id, self._roots, ROWS_AT_ONCE)
                busy = await _is_busy(connection)
            if deleted is None:
                log.info("campaign.results_deleted", campaign_id=str(campaign_id))
                return True
            self._observe(deleted)
            took = time.monotonic() - began_at
            await asyncio.sleep(min(took * (BUSY_PAUSES if busy else IDLE_PAUSES), LONGEST_PAUSE_SECONDS))


async def _is_busy(connection: AsyncConnection) -> bool:
    """Whether a campaign is being sent."""
    first = select(col(Campaign.id)).where(campaigns.in_status(CampaignStatus.SENDING)).limit(1)
    return await connection.scalar(first) is not None

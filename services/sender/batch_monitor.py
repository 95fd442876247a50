"""Looks at every held batch twice a second, so that pause, cancel, rescue, deadlines and suppressions take effect;
renews leases, and keeps `blocked_by` of their campaigns up to date."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from uuid import UUID

from services.sender.db import campaigns, claims
from services.sender.engines import Engines
from services.sender.held_batch import HeldBatch, StopCause
from services.sender.held_batches import HeldBatches
from services.sender.limits import Limits
from shared import logs
from shared.ledger.database import Ledger, in_a_line, is_unavailable
from shared.ledger.states import CampaignStatus
from shared.settings import SenderSettings

RELAY_PATIENCE_SECONDS = 30.0
"""A batch is given back after this long without an available relay: another sender may have one."""

MOST_EXAMINED = 10_000
LEAST_EXAMINED = 100
"""Emails whose suppression a look asks for: all batches share the first number, each has at least the second. A sender
starts far fewer before the next look."""

log = logs.get()


class BatchMonitor:
    """One per process."""

    def __init__(
        self, settings: SenderSettings, ledger: Ledger, engine: Engines, held_batches: HeldBatches, limits: Limits
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._engine = engine
        self._batches = held_batches
        self._limits = limits
        #: By campaign: what this process last wrote to `blocked_by`.
        self._blocked_by: dict[UUID, str | None] = {}
        #: The group of relays of each of these campaigns.
        self._group_of: dict[UUID, str] = {}
        #: Since when no relay of a group is available, in monotonic seconds; by group.
        self._blocked_since: dict[str, float] = {}

    async def run(self) -> None:
        """Looks every `look_seconds`. While the database is away, deadlines are still kept."""
        while True:
            started = time.monotonic()
            try:
                await self.look()
            except Exception as error:
                if not is_unavailable(error):
                    raise
                log.warning("database.unreachable", error=in_a_line(error))
            self._measure()
            await asyncio.sleep(max(0.0, self._settings.look_seconds - (time.monotonic() - started)))

    async def check_relays(self) -> str:
        """For readiness: why no relay of any group is available; empty if one is."""
        return self._engine.blocked_reason() or ""

    async def look(self) -> None:
        """One look at every held batch."""
        now = time.monotonic()
        batches = list(self._batches)
        blocked = {group: self._engine.blocked_reason(group) for group in self._engine.groups}
        self._blocked_since = {
            group: self._blocked_since.get(group, now) for group, why in blocked.items() if why is not None
        }
        for held in batches:
            self._check_deadlines(held, now)
            if held.stop is None and (full := self._limits.full(held.scopes)) is not None:
                held.stop_for(StopCause.OUT_OF_TIME, full.why)  # released again when there is room
        if batches or self._blocked_since:
            await self._limits.refresh(self._batches)
        if batches:
            await self._look_at(batches, now)
            self._batches.wake_feed()
            for held in batches:
                if not held.is_lost and held.lease.age(now) > self._settings.renew_seconds:
                    await self._renew(held)
        await self._update_blocked_by(batches, blocked)
        if batches:
            self._batches.wake_feed()

    async def _look_at(self, batches: Sequence[HeldBatch], now: float) -> None:
        most = max(LEAST_EXAMINED, MOST_EXAMINED // len(batches))
        rows = {held.claim.batch_id: held.rows_to_examine(most) for held in batches}
        keys = defaultdict[UUID, list[str]](list)
        for held in batches:
            keys[held.facts.project_id] += [row.email_key for row in rows[held.claim.batch_id]]
        found, suppressed = await claims.look(self._ledger, list(rows), keys)
        for held in batches:
            self._heed(held, found.get(held.claim.batch_id), now)
            held.examined(rows[held.claim.batch_id], suppressed[held.facts.project_id])

    def _heed(self, held: HeldBatch, found: claims.Look | None, now: float) -> None:
        if not self._is_held(held):
            return
        if found is None or found.generation != held.claim.generation:
            self._batches.lose(held)
        elif found.campaign_status != CampaignStatus.SENDING:
            held.stop_for(StopCause.NOT_SENDING, f"the campaign is {found.campaign_status}")
        elif found.overdue:
            held.stop_for(StopCause.NOT_SENDING, "the campaign's deliver_by has passed")
        else:
            held.lease.confirmed(now)
        if found is not None:
            held.note_events_wanted(found.wants_events)

    async def _renew(self, held: HeldBatch) -> None:
        before = time.monotonic()
        claim = held.claim
        if await claims.renew(self._ledger, claim.batch_id, claim.generation, self._settings.lease_seconds):
            held.lease.renewed(before)
        elif self._is_held(held):
            self._batches.lose(held)

    def _is_held(self, held: HeldBatch) -> bool:
        """False: it was let go meanwhile, or is about to be. Its generation is another then, and letting it go says
        whether it was lost."""
        return held in self._batches and not held.is_over

    def _check_deadlines(self, held: HeldBatch, now: float) -> None:
        """Past the soft limit, or long without a relay, no email starts; past the hard limit those in flight are
        aborted. What is done is recorded, the rest is given back, and the campaign's timeline says why."""
        settings, age = self._settings, now - held.claimed_at
        if held.stop is None and age > settings.batch_soft_seconds:
            held.stop_for(StopCause.OUT_OF_TIME, f"it was held for {settings.batch_soft_seconds:g} s")
        since = self._blocked_since.get(held.facts.relay_group)
        if since is not None:
            held.note_change()  # while others can send, it gives its place up
        if held.stop is None and since is not None and now - since > RELAY_PATIENCE_SECONDS:
            held.stop_for(StopCause.OUT_OF_TIME, f"no relay could be used for {RELAY_PATIENCE_SECONDS:g} s")
        if age > settings.batch_hard_seconds and held.in_flight_count:
            emails = held.in_flight()
            held.stop_for(
                StopCause.OUT_OF_TIME,
                f"{len(emails)} emails in flight were aborted after {settings.batch_hard_seconds:g} s",
            )
            log.warning(
                "batch.aborted",
                campaign_id=str(held.claim.campaign_id),
                batch_id=held.claim.batch_id,
                generation=held.claim.generation,
                emails=len(emails),
            )
            self._engine.abort(emails, "its batch was held for too long")

    async def _update_blocked_by(self, batches: Collection[HeldBatch], blocked: Mapping[str, str | None]) -> None:
        for held in batches:
            campaign_id, why = held.claim.campaign_id, blocked[held.facts.relay_group]
            if why is None and not held.has_results and not self._blocked_by.get(campaign_id):
                continue  # a relay may be available, but nothing proves it yet
            if self._blocked_by.get(campaign_id, "nothing yet") != why:
                await campaigns.set_blocked_by(self._ledger, campaign_id, why)
                self._blocked_by[campaign_id] = why
            self._group_of[campaign_id] = held.facts.relay_group
        for campaign_id in self._blocked_by.keys() - {held.claim.campaign_id for held in self._batches}:
            if self._blocked_by[campaign_id]:
                if blocked[self._group_of[campaign_id]] is not None:
                    continue  # this process set it, and clears it when a relay is available, batch or not
                await campaigns.set_blocked_by(self._ledger, campaign_id, None)
            del self._blocked_by[campaign_id], self._group_of[campaign_id]

    def _measure(self) -> None:
        metrics, now = self._batches.metrics, time.monotonic()
        metrics.pass_on()
        metrics.lease_age.set(max((held.lease.age(now) for held in self._batches), default=0.0))
        metrics.progress_age.set(max((held.idle_seconds(now) for held in self._batches), default=0.0))
        for relay in self._engine.status():
            metrics.connections.labels(relay.name, "open").set(relay.connections)
            metrics.connections.labels(relay.name, "busy").set(relay.busy)
            metrics.relay_resting.labels(relay.name).set(relay.state == "resting")

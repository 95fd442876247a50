"""The loop: an event or the clock starts a round, which surveys the ledger, advances campaigns and releases batches."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from services.dispatcher import fairness, lifecycle
from services.dispatcher.fairness import Fairness
from services.dispatcher.job import run_job
from services.dispatcher.metrics import DispatcherMetrics
from services.dispatcher.release import Released, release_one
from services.dispatcher.survey import OpenCampaign, Survey, survey
from shared import logs
from shared.bus import Bus
from shared.events import Event
from shared.health import late
from shared.ledger.database import Ledger, in_a_line, is_unavailable
from shared.settings import DispatcherSettings
from shared.ticks import Ticks

JOBS_AT_ONCE = 3
"""Campaigns that are stopped, reopened or closed at the same time, while rounds go on."""

log = logs.get()


class Dispatcher:
    """Runs one round at a time; events that arrive during a round start one more.

    Several dispatchers may run: each change is a compare-and-swap, and the second finds it done."""

    def __init__(self, settings: DispatcherSettings, ledger: Ledger, bus: Bus, metrics: DispatcherMetrics) -> None:
        self._settings = settings
        self._ledger = ledger
        self._bus = bus
        self._metrics = metrics
        self._fairness = Fairness()
        self.ticks = Ticks("rounds")
        self._woken = asyncio.Event()
        self._cause = "event"
        #: Campaigns that a job works on.
        self._jobs: set[UUID] = set()
        self._round_ended_at = time.monotonic()
        self._owned: asyncio.TaskGroup

    async def on_event(self, _event: Event) -> None:
        """Wakes the loop. The event is acknowledged at once: the ledger says what there is to do."""
        self.wake()

    def wake(self, cause: str = "event") -> None:
        """Starts a round as soon as the current one has ended."""
        if not (self._woken.is_set() and self._cause == "event"):
            self._cause = cause
        self._woken.set()

    async def run(self) -> None:
        """Runs rounds until cancelled. If one fails, the error is logged and the next one tries again."""
        cause = "clock"
        async with self.open():
            while True:
                try:
                    with self.ticks:
                        await self.round(cause)
                except Exception as error:  # noqa: BLE001 - see _log_error
                    _log_error("round.failed", error)
                cause = await self._wait()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Owns the tasks that rounds start, and waits for them at the end."""
        async with asyncio.TaskGroup() as self._owned:
            yield

    async def round(self, cause: str) -> bool:
        """Looks at the ledger once and does what there is to do; returns False if there was nothing."""
        with self._metrics.round_seconds.time():
            async with self._ledger.read() as connection:
                seen = await survey(connection, lost_seconds=self._settings.instance_lost_seconds)
            stepped = [await self._advance(campaign, cause) for campaign in seen.campaigns]
            released = await self._release(seen)
            self._fairness.forget(seen.campaigns)
        busy = any(stepped) or released
        self._round_ended_at = time.monotonic()
        if busy:
            self._metrics.common.wakeups.labels(cause).inc()
        return busy

    async def check(self) -> str:
        """Readiness: what is wrong with the rounds, or an empty string."""
        return late(self._round_ended_at, self._settings.clock_seconds, "round")

    async def _wait(self) -> str:
        """Waits for an event or the next tick of the clock; returns which it was."""
        try:
            async with asyncio.timeout(self._settings.clock_seconds * random.uniform(0.9, 1.1)):
                await self._woken.wait()
        except TimeoutError:
            return "clock"
        self._woken.clear()
        return self._cause

    async def _advance(self, campaign: OpenCampaign, cause: str) -> bool:
        """Takes the short steps of one campaign, or starts a job on it. An error here affects no other campaign."""
        stepped = False
        try:
            while (status := await lifecycle.advance(self._ledger, campaign)) is not None:
                stepped = True
                campaign.status = status
        except Exception as error:  # noqa: BLE001 - see _log_error
            _log_error("campaign.failed", error, campaign_id=str(campaign.id))
            return False
        if campaign.needs_job and campaign.id not in self._jobs and len(self._jobs) < JOBS_AT_ONCE:
            self._jobs.add(campaign.id)
            self._owned.create_task(self._run_job(campaign, cause))
            stepped = True
        return stepped

    async def _run_job(self, campaign: OpenCampaign, cause: str) -> None:
        events: list[Event] | None = None
        try:
            events = await run_job(self._settings, self._ledger, self._metrics, campaign)
        except Exception as error:  # noqa: BLE001 - see _log_error
            _log_error("job.failed", error, campaign_id=str(campaign.id))
        finally:
            self._jobs.discard(campaign.id)
        if events is not None:  # else the clock tries again: no hot loop
            for event in events:
                self._publish(event)
            self.wake(cause)

    async def _release(self, seen: Survey) -> bool:
        """Fills the window, one batch of the fairest campaign at a time."""
        window = fairness.window(self._settings, seen.capacity)
        waiting = fairness.candidates(seen)
        busy = False
        while waiting and seen.out < window:
            campaign = self._fairness.next(waiting, seen)
            released = await self._release_one(campaign, seen)
            if released is None:
                waiting.remove(campaign)
                continue
            busy = True
            self._fairness.served(campaign, fresh=released.fresh)
            campaign.emails_out += released.emails
            if not seen.has_room(campaign):
                waiting.remove(campaign)
            self._publish(released.ticket)
        self._metrics.capacity.set(seen.capacity)
        self._metrics.window.set(window)
        self._metrics.out.set(seen.out)
        return busy

    async def _release_one(self, campaign: OpenCampaign, seen: Survey) -> Released | None:
        try:
            with self._metrics.release_seconds.time():
                released = await release_one(
                    self._ledger,
                    self._settings,
                    campaign,
                    capacity=seen.capacity,
                    rate=seen.rate(campaign),
                    fresh_first=self._fairness.wants_fresh(campaign),
                )
        except Exception as error:  # noqa: BLE001 - see _log_error
            _log_error("release.failed", error, campaign_id=str(campaign.id))
            return None
        if released is not None:
            self._metrics.released.labels("fresh" if released.fresh else "again").inc()
            self._metrics.released_emails.inc(released.emails)
            log.info(
                "batch.released",
                campaign_id=str(campaign.id),
                batch_id=released.ticket.batch_id,
                generation=released.ticket.generation,
                emails=released.emails,
            )
        return released

    def _publish(self, event: Event) -> None:
        """Publishes outside the round, so that a broker that is slow to confirm delays no campaign. Never raises."""

        async def publish() -> None:
            await self._bus.publish(event)

        self._owned.create_task(publish())


def _log_error(what: str, error: Exception, **known: str) -> None:
    """Logs an error that ends one step and nothing else: a later round tries again."""
    if is_unavailable(error):
        log.warning("database.unreachable", error=in_a_line(error), **known)
    else:
        log.error(what, exc_info=error, **known)

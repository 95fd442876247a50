"""The loop: wakes on events and on the clock, surveys, advances campaigns, releases batches, begins longer turns."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from services.dispatcher import fairness, lifecycle
from services.dispatcher.fairness import Fairness
from services.dispatcher.metrics import DispatcherMetrics
from services.dispatcher.release import Released, release_one
from services.dispatcher.survey import Standing, Survey, survey
from services.dispatcher.turn import take_turn
from shared import logs
from shared.bus import Bus
from shared.events import Event
from shared.health import late
from shared.ledger.database import Ledger, in_a_line, is_unavailable
from shared.settings import DispatcherSettings
from shared.ticks import Ticks

TURNS_AT_ONCE = 3
"""Campaigns that are stopped, reopened or closed at the same time; surveys and releases go on beside them."""

log = logs.get()


class Dispatcher:
    """One round at a time: events that come meanwhile make one more. Several dispatchers may run: whatever one does is
    a compare-and-swap, and the other finds it done."""

    def __init__(self, settings: DispatcherSettings, ledger: Ledger, bus: Bus, metrics: DispatcherMetrics) -> None:
        self._settings = settings
        self._ledger = ledger
        self._bus = bus
        self._metrics = metrics
        self._fairness = Fairness()
        self.ticks = Ticks("rounds")
        self._woken = asyncio.Event()
        self._cause = "event"
        self._turns: set[UUID] = set()
        self._round_at = time.monotonic()
        self._owned: asyncio.TaskGroup

    async def on_event(self, _event: Event) -> None:
        """Any event only wakes the loop: it is acknowledged at once, and the ledger says what there is to do."""
        self.wake()

    def wake(self, cause: str = "event") -> None:
        """Something happened: a round begins as soon as the one at hand has ended."""
        if not (self._woken.is_set() and self._cause == "event"):
            self._cause = cause
        self._woken.set()

    async def run(self) -> None:
        """Rounds, until cancelled. Whatever fails in one is logged, and the next tries again."""
        cause = "clock"
        async with self.open():
            while True:
                try:
                    with self.ticks:
                        await self.round(cause)
                except Exception as error:  # noqa: BLE001 - see _tell
                    _tell("round.failed", error)
                cause = await self._wait()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Owns the turns and the publishing that rounds begin; waits for them at the end."""
        async with asyncio.TaskGroup() as self._owned:
            yield

    async def round(self, cause: str) -> bool:
        """Looks at the ledger once and does what there is to do; False where there was nothing."""
        with self._metrics.round_seconds.time():
            async with self._ledger.read() as connection:
                seen = await survey(connection, lost_seconds=self._settings.instance_lost_seconds)
            stepped = [await self._advance(campaign, cause) for campaign in seen.campaigns]
            released = await self._release(seen)
            self._fairness.forget(seen.campaigns)
        busy = any(stepped) or released
        self._round_at = time.monotonic()
        if busy:
            self._metrics.common.wakeups.labels(cause).inc()
        return busy

    async def check(self) -> str:
        """For readiness: what is wrong with the rounds."""
        return late(self._round_at, self._settings.clock_seconds, "round")

    async def _wait(self) -> str:
        """Until something happens or the clock ticks; returns which."""
        try:
            async with asyncio.timeout(self._settings.clock_seconds * random.uniform(0.9, 1.1)):
                await self._woken.wait()
        except TimeoutError:
            return "clock"
        self._woken.clear()
        return self._cause

    async def _advance(self, campaign: Standing, cause: str) -> bool:
        """One campaign's own steps. What fails here leaves the other campaigns alone."""
        stepped = False
        try:
            while (status := await lifecycle.advance(self._ledger, campaign)) is not None:
                stepped = True
                campaign.status = status
        except Exception as error:  # noqa: BLE001 - see _tell
            _tell("campaign.failed", error, campaign_id=str(campaign.id))
            return False
        if campaign.needs_turn and campaign.id not in self._turns and len(self._turns) < TURNS_AT_ONCE:
            self._turns.add(campaign.id)
            self._owned.create_task(self._turn(campaign, cause))
            stepped = True
        return stepped

    async def _turn(self, campaign: Standing, cause: str) -> None:
        events: list[Event] | None = None
        try:
            events = await take_turn(self._settings, self._ledger, self._metrics, campaign)
        except Exception as error:  # noqa: BLE001 - see _tell
            _tell("turn.failed", error, campaign_id=str(campaign.id))
        finally:
            self._turns.discard(campaign.id)
        if events is not None:  # otherwise the clock comes back to it: no hot loop
            for event in events:
                self._publish(event)
            self.wake(cause)

    async def _release(self, seen: Survey) -> bool:
        """Fills the window, one batch at a time, in fair turns."""
        window = fairness.window(self._settings, seen.slots)
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
            self._publish(released.ticket)
        self._metrics.slots.set(seen.slots)
        self._metrics.window.set(window)
        self._metrics.out.set(seen.out)
        return busy

    async def _release_one(self, campaign: Standing, seen: Survey) -> Released | None:
        try:
            with self._metrics.release_seconds.time():
                released = await release_one(
                    self._ledger,
                    self._settings,
                    campaign,
                    slots=seen.slots,
                    limits=seen.limits,
                    fresh_first=self._fairness.wants_fresh(campaign),
                )
        except Exception as error:  # noqa: BLE001 - see _tell
            _tell("release.failed", error, campaign_id=str(campaign.id))
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
        """Beside the round: a broker that is slow to confirm holds up no campaign. Publishing never raises."""

        async def publish() -> None:
            await self._bus.publish(event)

        self._owned.create_task(publish())


def _tell(what: str, error: Exception, **known: str) -> None:
    """An error ends what it struck and nothing else: the ledger's clock comes back to it."""
    if is_unavailable(error):
        log.warning("database.unreachable", error=in_a_line(error), **known)
    else:
        log.error(what, exc_info=error, **known)

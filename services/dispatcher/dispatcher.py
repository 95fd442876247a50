"""The loop: an event or the clock starts a round, which surveys the ledger, advances campaigns and releases batches."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

from services.dispatcher import fairness
from services.dispatcher.agenda import AGAIN_SECONDS, Agenda
from services.dispatcher.fairness import Fairness
from services.dispatcher.job import run_job
from services.dispatcher.jobs import Job, Jobs
from services.dispatcher.metrics import DispatcherMetrics
from services.dispatcher.paces import Paces
from services.dispatcher.release import Released, recall, release
from services.dispatcher.steps import Steps, log_error
from services.dispatcher.survey import OpenCampaign, Survey, find, look_at
from shared import logs
from shared.bus import Bus
from shared.events import AnyProgress, CampaignRequested, Event
from shared.health import late
from shared.ledger.database import Ledger
from shared.settings import DispatcherSettings
from shared.ticks import Ticks

LAP_AT_ONCE = 100
"""Campaigns that a tick of the clock checks although nothing names them: the next ones of a lap over all."""

FIRST_LAP_AT_ONCE = 1000
"""In the first lap, which a process runs without waiting for the clock."""

IDLE_SECONDS = 5.0
"""While nothing is being sent, the lap goes this often."""

GATHER_SECONDS = 0.1
"""How long a round waits for more events while senders have batches ahead: about what a sender takes for one of 500."""

LOOKS_AT_ONCE = 10
"""How often a round looks for something to release, if much that was ready is not any more; the next round goes on."""

MOST_RECALLED = 4
"""Batches that are taken back at once for a campaign with nothing out. With few places those are all that are ahead of
it; where there are many, the queue moves fast."""

log = logs.get()


class Dispatcher:
    """Runs one round at a time. Events start the next one, at once or a few together.

    Several dispatchers may run: each change is a compare-and-swap, and the second finds it done."""

    def __init__(self, settings: DispatcherSettings, ledger: Ledger, bus: Bus, metrics: DispatcherMetrics) -> None:
        self._settings = settings
        self._ledger = ledger
        self._bus = bus
        self._metrics = metrics
        self._agenda = Agenda()
        self._fairness = Fairness()
        self._paces = Paces()
        self.ticks = Ticks("rounds")
        self._woken = asyncio.Event()
        self._cause = "event"
        self._jobs = Jobs(self._work, lambda job: self._owned.create_task(job))
        self._steps = Steps(ledger, metrics, self._agenda, self._fairness, self._jobs, self._publish)
        self._round_ended_at = time.monotonic()
        #: Events of batches since the last round began, and how many of them start the next one at once: half of the
        #: batches that no sender had claimed, if the window was full.
        self._progressed, self._enough = 0, 0
        #: Batches that are out, by campaign, less those that came back since the last round. None: it left something to
        #: release, or a round is under way.
        self._still_out: dict[UUID, int] | None = None
        #: Starts a round for fewer of them.
        self._gathering: asyncio.TimerHandle | None = None
        #: When the lap went last, in monotonic seconds.
        self._lapped_at = float("-inf")
        #: The last lap found no campaign that is being sent, and no round has found anything since.
        self._is_idle = False
        #: Set when a round has seen rows of the outbox that have no position.
        self.unplaced = asyncio.Event()
        self._owned: asyncio.TaskGroup

    async def on_request(self, event: CampaignRequested) -> None:
        """Wakes the loop. The event is acknowledged at once: the ledger says what there is to do."""
        self._paces.note_late(event.campaign_id)
        self.wake(event.campaign_id)

    async def on_progress(self, event: AnyProgress) -> None:
        """Wakes the loop too, or waits for more such events, GATHER_SECONDS at most: see `_is_urgent`. While nothing
        can be released, a batch that ended waits for the clock: its retries, if any, are due later. One that was given
        back early names no pace, and may be due at once."""
        campaign_id = event.campaign_id
        was_awaited = campaign_id is not None and self._paces.awaits(campaign_id)
        if campaign_id is not None and event.emails_per_second:
            self._paces.note(campaign_id, event.emails_per_second)
        self._progressed += 1
        if campaign_id is None or was_awaited or self._is_urgent(campaign_id):
            self.wake(campaign_id)
        elif self._gathering is None and not (self._still_out is not None and event.emails_per_second):
            self._gathering = asyncio.get_running_loop().call_later(GATHER_SECONDS, self.wake)

    def _is_urgent(self, campaign_id: UUID) -> bool:
        """Whether a batch that came back starts a round at once. Not while senders have batches ahead and its campaign
        only waits for room in the window; nor if nothing can be released, before it is the campaign's last."""
        if self._still_out is None:
            return self._progressed >= self._enough or not self._fairness.is_ready(campaign_id)
        left = self._still_out[campaign_id] = self._still_out.get(campaign_id, 1) - 1
        return left <= 0

    def wake(self, campaign_id: UUID | None = None, cause: str = "event") -> None:
        """Starts a round as soon as the current one has ended; it looks at the campaign."""
        if campaign_id is not None:
            self._agenda.name(campaign_id)
        if not (self._woken.is_set() and self._cause == "event"):
            self._cause = cause
        self._woken.set()

    @property
    def is_woken(self) -> bool:
        """The next round starts at once."""
        return self._woken.is_set()

    async def run(self) -> None:
        """Runs rounds until cancelled. If one fails, the error is logged and the next one tries again."""
        cause = "clock"
        async with self.open():
            while True:
                try:
                    with self.ticks:
                        await self.round(cause)
                except Exception as error:  # noqa: BLE001 - see log_error
                    log_error("round.failed", error)
                cause = await self._wait()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Owns the tasks that rounds start, and waits for them at the end."""
        async with asyncio.TaskGroup() as self._owned:
            yield

    async def round(self, cause: str) -> bool:
        """Looks at the campaigns on the agenda and does what there is to do; returns False if there was nothing."""
        asked = self._agenda.take()
        # Events of batches that come from here on start another round, which sees what this survey may have missed.
        self._progressed, self._still_out = 0, None
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
        with self._metrics.round_seconds.time():
            try:
                seen = await self._survey(asked, cause)
            except BaseException:
                self._agenda.name_all(asked)
                raise
            stepped = await self._steps.take(seen, cause)
            for campaign in seen.campaigns.values():
                self._note(campaign, seen)
            released = await self._release(seen)
            self._agenda.are_out([campaign.id for campaign in seen.campaigns.values() if campaign.out])
        busy = stepped or released
        self._round_ended_at = time.monotonic()
        if busy:
            self._metrics.common.wakeups.labels(cause).inc()
        return busy

    async def _survey(self, asked: set[UUID], cause: str) -> Survey:
        """Looks at what events and the agenda ask for, what is due, what has batches out, and what the lap finds
        (added to `asked`)."""
        is_first_lap = not self._agenda.laps
        most = FIRST_LAP_AT_ONCE if is_first_lap else LAP_AT_ONCE if cause == "clock" else 0
        if self._is_idle and not asked and time.monotonic() - self._lapped_at < IDLE_SECONDS:
            most = 0
        lost_seconds = self._settings.instance_lost_seconds
        found = await find(self._ledger, lost_seconds, lap_after=self._agenda.lap_at, lap_most=most)
        if most:
            self._lapped_at = time.monotonic()
            if self._agenda.lap(found.lap, most):
                self._fairness.end_lap()
            # In the first lap all of them, to learn when their retries are due.
            asked.update(campaign_id for campaign_id, has_work in found.lap.items() if has_work or is_first_lap)
            if is_first_lap and not self._agenda.laps:
                self.wake(cause=cause)
        wanted = {*asked, *found.due, *found.out}
        if most or wanted:
            self._is_idle = not (wanted or found.lap) and self._agenda.lap_at is None
        if found.any_unplaced:
            self.unplaced.set()
        if not wanted:
            return Survey({}, found.capacity, {})
        campaigns, limits, now = await look_at(self._ledger, wanted, found.out)
        for gone in wanted - campaigns.keys():
            self._fairness.forget(gone)
        return Survey(campaigns, found.capacity, limits, now)

    def _note(self, campaign: OpenCampaign, seen: Survey) -> None:
        """Notes what can be released of a campaign, and when to look at it again."""
        has_room = campaign.may_release and self._has_room(campaign, seen)
        self._fairness.note(
            campaign.id,
            campaign.project_id,
            priority=campaign.priority,
            limited=seen.rate(campaign) is not None,
            out=campaign.places,
            ready=has_room,
        )
        if campaign.may_release and not has_room:
            self._agenda.look_in(campaign.id, seen.room_in(campaign))
        elif campaign.may_send and campaign.due_in is not None and campaign.due_in > 0:
            self._agenda.look_in(campaign.id, campaign.due_in)

    def out_lately(self) -> Collection[UUID]:
        """Campaigns that have batches out, or had until a moment ago: only these get results."""
        return self._agenda.out_lately()

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

    async def _work(self, job: Job) -> bool:
        """Runs a job on a campaign; returns whether it is to be continued. An error is logged: a round tries again."""
        campaign_id = job.campaign.id
        try:
            done = await run_job(self._settings, self._ledger, self._metrics, job.campaign, job.must_yield)
        except Exception as error:  # noqa: BLE001 - see log_error
            log_error("job.failed", error, campaign_id=str(campaign_id))
            self._agenda.look_in(campaign_id, AGAIN_SECONDS)
            return False
        for event in done.events:
            self._publish(event)
        if not done.moved:  # no hot loop
            self._agenda.look_in(campaign_id, AGAIN_SECONDS)
        elif done.is_over:
            self.wake(campaign_id, job.cause)
        return not done.is_over

    async def _release(self, seen: Survey) -> bool:
        """Fills the window, one batch of the fairest campaign at a time. If it is full, a batch that no sender has
        claimed makes room for a campaign with nothing out, so that it does not wait behind a large one."""
        window = fairness.window(self._settings, seen.capacity)
        unclaimed = 0
        looks = 0
        while (free := window - seen.out) > 0 or seen.most_released() is not None:
            limited_last = seen.limited_out >= max(seen.capacity // 2, 1)
            campaign_id = self._fairness.next(limited_last=limited_last, no_limited=seen.beside_is_full)
            if campaign_id is None:
                if not seen.beside_is_full:
                    self._still_out = {one.id: one.out for one in seen.campaigns.values()}
                break
            if campaign_id not in seen.campaigns:
                if looks == LOOKS_AT_ONCE:
                    self._agenda.name(campaign_id)
                    self._woken.set()
                    break
                looks += 1
                await self._look_at_more(
                    seen, {campaign_id, *self._fairness.upcoming(max(free, 1))} - seen.campaigns.keys()
                )
                continue
            if free <= 0 and not (self._fairness.has_none_out(campaign_id) and await self._recall(seen)):
                break
            campaign = seen.campaigns[campaign_id]
            released = await self._release_of(campaign, seen, self._most_together(campaign, seen, free))
            if not released:
                self._fairness.nothing_ready(campaign_id)
                self._agenda.look_in(campaign_id, AGAIN_SECONDS)
                continue
            unclaimed += len(released)
            for one in released:
                campaign.out += 1
                campaign.emails_out += one.emails
                self._fairness.served(campaign_id, fresh=one.fresh)
                if one.fresh:
                    left = self._paces.left(campaign_id, campaign.total) - one.emails
                    self._paces.released(campaign_id, max(left, 0))
                self._publish(one.ticket)
            if not (campaign.may_release and self._has_room(campaign, seen)):
                self._fairness.nothing_ready(campaign_id)
        self._metrics.capacity.set(seen.capacity)
        self._metrics.window.set(window)
        self._metrics.out.set(seen.out)
        self._enough = (seen.released + unclaimed) // 2 if seen.out >= window else 0
        return unclaimed > 0

    def _most_together(self, campaign: OpenCampaign, seen: Survey, free: int) -> int:
        """How many batches of a campaign may be released together: one, if another campaign, its limits or a retry may
        come after it; at first as many as senders can take now, so that these begin while the rest is split."""
        is_alone = self._fairness.upcoming(2) == {campaign.id}
        if not is_alone or seen.rate(campaign) is not None or campaign.due:
            return 1
        if not campaign.out or self._paces.awaits(campaign.id):
            free = min(free, seen.capacity - campaign.out)
        return max(free, 1)

    def _has_room(self, campaign: OpenCampaign, seen: Survey) -> bool:
        """Whether it may have another batch. While its pace is awaited it gets as many as senders can take now: those
        behind them can be larger when it is known."""
        is_full = seen.rate(campaign) is None and 0 < seen.capacity <= campaign.out
        return seen.has_room(campaign) and not (is_full and self._paces.awaits(campaign.id))

    async def _look_at_more(self, seen: Survey, campaign_ids: Collection[UUID]) -> None:
        """Looks at campaigns that were ready earlier and whose turn it is now."""
        found, limits, _ = await look_at(self._ledger, campaign_ids, {})
        seen.campaigns.update(found)
        seen.limits.update(limits)
        for campaign_id in campaign_ids:
            if campaign_id in found:
                self._note(found[campaign_id], seen)
            else:
                self._fairness.forget(campaign_id)

    async def _recall(self, seen: Survey) -> bool:
        """Takes batches back from the campaign that has most out: their tickets are ahead in the queue. False if
        senders have claimed them meanwhile."""
        campaign = seen.most_released()
        if campaign is None:
            return False
        try:
            recalled = await recall(self._ledger, campaign.id, min(campaign.places - 1, MOST_RECALLED))
        except Exception as error:  # noqa: BLE001 - see log_error
            log_error("recall.failed", error, campaign_id=str(campaign.id))
            return False
        if recalled:
            campaign.out -= len(recalled)
            campaign.released -= len(recalled)
            campaign.emails_out -= sum(recalled)
            campaign.due_in = 0.0
            self._note(campaign, seen)
            self._metrics.recalled.inc(len(recalled))
            log.info("batches.recalled", campaign_id=str(campaign.id), emails=sum(recalled), batches=len(recalled))
        return bool(recalled)

    async def _release_of(self, campaign: OpenCampaign, seen: Survey, most: int) -> Sequence[Released]:
        """Releases one batch of a campaign, or up to `most` new ones together."""
        try:
            with self._metrics.release_seconds.time():
                released = await release(
                    self._ledger,
                    self._settings,
                    campaign,
                    most=most,
                    capacity=seen.capacity,
                    rate=seen.rate(campaign),
                    pace=self._paces.of(campaign.id),
                    left=self._paces.left(campaign.id, campaign.total),
                    lacks_limit=seen.lacks_limit(campaign),
                    fresh_first=self._fairness.wants_fresh(campaign.id),
                )
        except Exception as error:  # noqa: BLE001 - see log_error
            log_error("release.failed", error, campaign_id=str(campaign.id))
            return ()
        for one in released:
            self._metrics.released.labels("fresh" if one.fresh else "again").inc()
            self._metrics.released_emails.inc(one.emails)
            log.info(
                "batch.released",
                campaign_id=str(campaign.id),
                batch_id=one.ticket.batch_id,
                generation=one.ticket.generation,
                emails=one.emails,
            )
        return released

    def _publish(self, event: Event) -> None:
        """Publishes outside the round, so that a broker that is slow to confirm delays no campaign. Never raises."""

        async def publish() -> None:
            await self._bus.publish(event)

        self._owned.create_task(publish())

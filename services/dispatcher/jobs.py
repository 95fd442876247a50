"""Which campaigns jobs work on: a few at a time, in slices, so that a long job delays no short one."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from services.dispatcher.survey import OpenCampaign

JOBS_AT_ONCE = 3
"""Campaigns that are stopped, reopened or closed at the same time, while rounds go on."""

SLICE_SECONDS = 0.5
"""A job that has worked for this long yields at the end of its step if others wait."""

LONGEST_WAIT_FIRST = 3
"""Every third slice goes to the campaign that has waited longest, the others to the one that has had the least time."""


@dataclass(frozen=True, slots=True)
class Job:
    """A campaign to work on."""

    campaign: OpenCampaign
    cause: str  # of the round that found it
    must_yield: Callable[[], bool]


Work = Callable[[Job], Awaitable[bool]]
"""Works until all is done or the job must yield; returns whether the job is to be continued."""


class Jobs:
    """A campaign that has had no time yet comes first, so a small one is closed beside any number of long jobs. None
    starves: every third slice goes to the one that has waited longest.

    Several dispatchers may have jobs on one campaign: every step is a transaction under the campaign's lock."""

    def __init__(self, work: Work, start: Callable[[Coroutine[Any, Any, None]], object]) -> None:
        self._work = work
        #: Runs a coroutine beside the rounds.
        self._start = start
        #: In the order in which they began to wait.
        self._waiting: dict[UUID, Job] = {}
        #: When each began, in monotonic seconds.
        self._running: dict[UUID, float] = {}
        #: Seconds that the jobs of a campaign have had.
        self._had: dict[UUID, float] = {}
        self._slices = 0

    def offer(self, campaign: OpenCampaign, cause: str) -> bool:
        """Takes a campaign that needs a job, unless it has one; returns whether it had none."""
        if campaign.id in self._running:
            return False
        is_new = campaign.id not in self._waiting
        self._wait(campaign, cause)
        self._start_next()
        return is_new

    def has(self, campaign_id: UUID) -> bool:
        """Whether a job works on a campaign, or is going to."""
        return campaign_id in self._running or campaign_id in self._waiting

    def _wait(self, campaign: OpenCampaign, cause: str) -> None:
        def must_yield() -> bool:
            return bool(self._waiting) and time.monotonic() - self._running[campaign.id] >= SLICE_SECONDS

        self._waiting[campaign.id] = Job(campaign, cause, must_yield)

    def _start_next(self) -> None:
        while self._waiting and len(self._running) < JOBS_AT_ONCE:
            self._slices += 1
            if self._slices % LONGEST_WAIT_FIRST == 0:
                chosen = next(iter(self._waiting))
            else:
                chosen = min(self._waiting, key=lambda campaign_id: self._had.get(campaign_id, 0.0))
            self._running[chosen] = time.monotonic()
            self._start(self._run(self._waiting.pop(chosen)))

    async def _run(self, job: Job) -> None:
        id_ = job.campaign.id
        try:
            goes_on = await self._work(job)
        except asyncio.CancelledError:
            self._waiting.clear()  # the process stops: nothing else starts
            raise
        had = self._had.pop(id_, 0.0) + time.monotonic() - self._running.pop(id_)
        if goes_on:
            self._had[id_] = had
            self._wait(job.campaign, job.cause)
        self._start_next()

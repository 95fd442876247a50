"""Which campaign gets the next slice of work."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest

from services.dispatcher import jobs
from services.dispatcher.jobs import JOBS_AT_ONCE, LONGEST_WAIT_FIRST, Job, Jobs
from tests.unit.test_dispatcher_fairness import campaign


@pytest.fixture(autouse=True)
def short_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "SLICE_SECONDS", 0.0)


class Office:
    """Jobs whose slices the test ends one at a time."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self.jobs = Jobs(self.work, self.start)
        self.group = group
        self.slices: Counter[int] = Counter()
        #: By campaign: the slice that is running.
        self.running: dict[int, tuple[Job, asyncio.Future[bool]]] = {}
        self.most_at_once = 0

    def start(self, job: Coroutine[Any, Any, None]) -> None:
        self.group.create_task(job)

    async def work(self, job: Job) -> bool:
        number = job.campaign.id.int
        self.slices[number] += 1
        self.running[number] = (job, asyncio.get_running_loop().create_future())
        self.most_at_once = max(self.most_at_once, len(self.running))
        try:
            return await self.running[number][1]
        finally:
            del self.running[number]

    async def offer(self, *numbers: int) -> None:
        for number in numbers:
            self.jobs.offer(campaign(number), "event")
        await self.settle()

    async def end(self, number: int, *, goes_on: bool) -> None:
        self.running[number][1].set_result(goes_on)
        await self.settle()

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)


@pytest.fixture
async def office() -> AsyncIterator[Office]:
    async with asyncio.TaskGroup() as group:
        office = Office(group)
        yield office
        while office.running:
            await office.end(next(iter(office.running)), goes_on=False)


async def test_a_new_campaign_comes_before_long_jobs(office: Office) -> None:
    await office.offer(1, 2, 3, 4, 5)
    for number in (1, 2, 3):
        await office.end(number, goes_on=True)
    await office.offer(9)
    for number in list(office.running)[:2]:
        await office.end(number, goes_on=True)
    assert office.slices[9] == 1, "two of three slices go to campaigns that have had least"
    assert office.most_at_once == JOBS_AT_ONCE


async def test_a_long_job_is_not_starved_by_any_number_of_small_ones(office: Office) -> None:
    await office.offer(1)
    await office.end(1, goes_on=True)
    for number in range(100, 100 + 20 * LONGEST_WAIT_FIRST):
        await office.offer(number)
        await office.end(next(iter(office.running)), goes_on=next(iter(office.running)) == 1)
    assert office.slices[1] > 5


async def test_a_job_yields_only_if_others_wait(office: Office) -> None:
    await office.offer(1)
    job = office.running[1][0]
    assert not job.must_yield()
    await office.offer(2, 3, 4)
    assert job.must_yield()


async def test_a_campaign_has_one_job_at_a_time(office: Office) -> None:
    assert office.jobs.offer(campaign(1), "clock")
    assert not office.jobs.offer(campaign(1), "clock")
    await office.settle()
    assert not office.jobs.offer(campaign(1), "clock")
    assert office.slices == {1: 1}


async def test_nothing_starts_while_the_process_stops() -> None:
    async with asyncio.TaskGroup() as group:
        office = Office(group)
        tasks: list[asyncio.Task[None]] = []
        office.start = lambda job: tasks.append(group.create_task(job))  # type: ignore[method-assign]
        office.jobs = Jobs(office.work, lambda job: office.start(job))
        await office.offer(1, 2, 3, 4)
        for task in tasks:
            task.cancel()
        await office.settle()
        assert office.slices == {1: 1, 2: 1, 3: 1}

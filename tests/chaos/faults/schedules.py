"""Random schedules: several of the other faults, at random moments, two at a time."""

import asyncio
from collections.abc import Sequence

from tests.chaos.catalogue import FAULTS, Fault, fault
from tests.chaos.faults.relays import SHORT_REST
from tests.chaos.world import World

FAULTS_PER_LANE = 3


@fault("a random schedule of six faults, two at a time", settings=SHORT_REST, lasts_seconds=30)
async def random_schedule(it: World) -> None:
    """One lane breaks processes, the other what they stand on, so that no fault undoes the other's mending."""
    known = [other for other in FAULTS.values() if other.mixes and it.conditions.ledger in other.ledgers]
    processes = [other for other in known if other.module == "processes"]
    beneath = [other for other in known if other.module != "processes"]
    schedule = [it.chance.choices(lane, k=FAULTS_PER_LANE) for lane in (processes, beneath)]
    it.schedule = " | ".join(", ".join(step.name for step in lane) for lane in schedule)
    await asyncio.gather(*(_walk(it, lane) for lane in schedule))
    # How soon a batch is in work again cannot be promised while what it needs is broken too.
    it.again_seconds.clear()
    it.over()


async def _walk(it: World, lane: Sequence[Fault]) -> None:
    for step in lane:
        await it.a_moment()
        await step.inflict(it)

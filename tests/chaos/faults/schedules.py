"""Random schedules: several of the other faults, at random moments, two at a time."""

import asyncio
from collections.abc import Sequence

from tests.chaos.catalogue import FAULTS, Fault, fault
from tests.chaos.faults.relays import SHORT_PROVIDER_REST, SHORT_REST
from tests.chaos.world import World

FAULTS_PER_LANE = 3


@fault(
    "a random schedule of six faults, two at a time", settings={**SHORT_REST, **SHORT_PROVIDER_REST}, extra_seconds=30
)
async def random_schedule(world: World) -> None:
    """One lane breaks processes, the other breaks what they depend on, so that no fault undoes the other's repair."""
    known = [
        other for other in FAULTS.values() if other.in_random_schedule and world.conditions.ledger in other.ledgers
    ]
    processes = [other for other in known if other.module == "processes"]
    other_faults = [other for other in known if other.module != "processes"]
    schedule = [world.random.choices(lane, k=FAULTS_PER_LANE) for lane in (processes, other_faults)]
    world.schedule = " | ".join(", ".join(step.name for step in lane) for lane in schedule)
    await asyncio.gather(*(_walk(world, lane) for lane in schedule))
    # No time can be promised for claiming a batch while something it needs is broken as well.
    world.reclaimed_seconds.clear()
    world.fault_ended()


async def _walk(world: World, lane: Sequence[Fault]) -> None:
    for step in lane:
        await world.random_pause()
        await step.inflict(world)

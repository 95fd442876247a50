"""What tells programs is killed. Each webhook and a queue on the exchange are accounted for, event by event."""

import asyncio

from tests.chaos.catalogue import fault
from tests.chaos.faults.brokers import kill_broker
from tests.chaos.faults.processes import kill
from tests.chaos.world import World, any_of

KILLS = 6


@fault("the service webhooks gets kill -9 six times in a row", subscribed=True, extra_seconds=10)
async def kill_webhooks(world: World) -> None:
    for _ in range(KILLS):
        await asyncio.to_thread(world.processes["webhooks"].kill)
        world.processes["webhooks"].launch()
        world.fault_ended()
        await world.random_pause(0.5, 3)


@fault("one of two processes of webhooks gets kill -9, six times", subscribed=True, extra_seconds=10)
async def kill_one_of_two_webhooks(world: World) -> None:
    world.system.launch("webhooks", "webhooks-2")
    await world.processes["webhooks-2"].wait_ready()
    for _ in range(KILLS):
        victim = any_of(world, ("webhooks", "webhooks-2"))
        await asyncio.to_thread(world.processes[victim].kill)
        world.processes[victim].launch()
        world.fault_ended()
        await world.random_pause(0.5, 3)


@fault("dispatcher, sender and webhooks get kill -9 at once", subscribed=True, extra_seconds=10)
async def kill_all_that_write_and_tell_events(world: World) -> None:
    await kill(world, "sender-1")
    for name in ("dispatcher", "webhooks"):
        await asyncio.to_thread(world.processes[name].kill)
    for name in ("dispatcher", "sender-1", "webhooks"):
        world.processes[name].launch()
    world.fault_ended()


@fault("the broker is killed while programs read events from it", subscribed=True, recovers=False)
async def kill_broker_of_events(world: World) -> None:
    await kill_broker(world)

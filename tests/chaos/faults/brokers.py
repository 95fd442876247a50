"""The broker restarts, dies, loses messages, or stops accepting them."""

import asyncio
import subprocess
from pathlib import Path

from shared import topology
from tests.chaos.catalogue import fault
from tests.chaos.world import World

RABBITMQCTL = Path("/usr/lib/rabbitmq/bin/rabbitmqctl")
NO_MEMORY = "0.0000001"  # share of the memory: raises the alarm at once
RESTART_SECONDS = 25.0  # a broker may need that long on a busy machine, and the campaign must outlast it
CONNECTION_VISIBLE_SECONDS = 6.0  # the management API shows a new connection after 5 s


@fault("the broker restarts", extra_seconds=RESTART_SECONDS, in_random_schedule=True)
async def restart_broker(world: World) -> None:
    await asyncio.to_thread(world.servers.broker.restart)


@fault("the broker gets kill -9", extra_seconds=RESTART_SECONDS, in_random_schedule=True)
async def kill_broker(world: World) -> None:
    await asyncio.to_thread(world.servers.broker.kill)
    await world.random_pause()
    await asyncio.to_thread(world.servers.broker.start)
    await asyncio.to_thread(world.servers.broker.wait_ready)


@fault(
    "all connections to the broker are closed by an administrator",
    extra_seconds=CONNECTION_VISIBLE_SECONDS,
    in_random_schedule=True,
)
async def close_connections(world: World) -> None:
    await asyncio.sleep(CONNECTION_VISIBLE_SECONDS)
    if not await asyncio.to_thread(world.servers.vhost.close_connections):
        world.problems.append("there was no connection to close")


@fault("`email` is purged repeatedly", in_random_schedule=True)
async def purge_email(world: World) -> None:
    for _ in range(10):
        await asyncio.to_thread(world.servers.vhost.purge, topology.EMAIL)
        await world.random_pause(0.05, 0.4)


@fault("`heartbeats` is unbound", extra_seconds=5, in_random_schedule=True)
async def unbind_heartbeats(world: World) -> None:
    await asyncio.to_thread(world.servers.vhost.unbind, topology.EXCHANGE, topology.HEARTBEATS)
    await world.random_pause(5, 7)
    await topology.declare(world.servers.vhost.admin_url)


@fault("every queue is unbound, so no event arrives", extra_seconds=5, in_random_schedule=True)
async def unbind_all(world: World) -> None:
    for queue in topology.QUEUES:
        await asyncio.to_thread(world.servers.vhost.unbind, topology.EXCHANGE, queue.name)
    await world.random_pause(4, 6)
    await topology.declare(world.servers.vhost.admin_url)


@fault("the broker has a memory alarm", extra_seconds=12)
async def memory_alarm(world: World) -> None:
    await watermark(world, NO_MEMORY)
    try:
        await world.random_pause(6, 8)
        if (await world.health("dispatcher"))["broker"] == "ok":
            world.problems.append("/health/ready does not report the memory alarm")
        lost = 'vashsender_events_published_total{event="batch.released",outcome="lost"}'
        await world.expect_metric("dispatcher", lost, lambda value: value > 0)
    finally:
        await watermark(world, "absolute", "512MB")


async def watermark(world: World, *share: str) -> None:
    command = [str(RABBITMQCTL), "set_vm_memory_high_watermark", *share]
    await asyncio.to_thread(
        subprocess.run,
        command,
        env=world.servers.broker.environment(),
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=60,
    )

"""The broker restarts, dies, loses what it holds, or stops taking anything."""

import asyncio
import subprocess
from pathlib import Path

from shared import topology
from tests.chaos.catalogue import fault
from tests.chaos.world import World

RABBITMQCTL = Path("/usr/lib/rabbitmq/bin/rabbitmqctl")
NO_MEMORY = "0.0000001"  # of what the machine has: the alarm rings at once
HEARD_OF_SECONDS = 6.0  # the management API knows of a connection after five


@fault("the broker restarts", lasts_seconds=10, mixes=True)
async def restart_broker(it: World) -> None:
    await asyncio.to_thread(it.parts.broker.restart)


@fault("the broker gets kill -9", lasts_seconds=10, mixes=True)
async def kill_broker(it: World) -> None:
    await asyncio.to_thread(it.parts.broker.kill)
    await it.a_moment()
    await asyncio.to_thread(it.parts.broker.start)
    await asyncio.to_thread(it.parts.broker.wait_ready)


@fault("all connections to the broker are closed from outside", lasts_seconds=HEARD_OF_SECONDS, mixes=True)
async def close_connections(it: World) -> None:
    await asyncio.sleep(HEARD_OF_SECONDS)
    if not await asyncio.to_thread(it.parts.vhost.close_connections):
        it.problems.append("no connection was there to close")


@fault("`email` is purged again and again", mixes=True)
async def purge_email(it: World) -> None:
    for _ in range(10):
        await asyncio.to_thread(it.parts.vhost.purge, topology.EMAIL)
        await it.a_moment(0.05, 0.4)


@fault("`heartbeats` is unbound", lasts_seconds=5, mixes=True)
async def unbind_heartbeats(it: World) -> None:
    await asyncio.to_thread(it.parts.vhost.unbind, topology.EXCHANGE, topology.HEARTBEATS)
    await it.a_moment(5, 7)
    await topology.declare(it.parts.vhost.admin_url)


@fault("every queue is unbound: no event arrives anywhere", lasts_seconds=5, mixes=True)
async def unbind_all(it: World) -> None:
    for queue in topology.QUEUES:
        await asyncio.to_thread(it.parts.vhost.unbind, topology.EXCHANGE, queue.name)
    await it.a_moment(4, 6)
    await topology.declare(it.parts.vhost.admin_url)


@fault("the broker is under memory alarm", lasts_seconds=12)
async def memory_alarm(it: World) -> None:
    await watermark(it, NO_MEMORY)
    try:
        await it.a_moment(6, 8)
        if (await it.health("dispatcher"))["broker"] == "ok":
            it.problems.append("/health/ready does not tell of the alarm")
        lost = 'vashsender_events_published_total{event="batch.released",outcome="lost"}'
        await it.expect_metric("dispatcher", lost, lambda value: value > 0)
    finally:
        await watermark(it, "absolute", "512MB")


async def watermark(it: World, *share: str) -> None:
    command = [str(RABBITMQCTL), "set_vm_memory_high_watermark", *share]
    await asyncio.to_thread(
        subprocess.run, command, env=it.parts.broker.environment(), check=True, stdout=subprocess.DEVNULL, timeout=60
    )

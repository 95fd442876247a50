"""One of three brokers is lost: killed, stopped, or cut off. The other two are the majority and go on.

While it is away, mail must move again within 5 s, and every service that consumes events must be woken by them within
60 s: its connections move to the other nodes, and the queues elect leaders there.
"""

import asyncio
import signal
import time
from collections.abc import Callable
from itertools import pairwise

from shared import topology
from tests.chaos.catalogue import fault
from tests.chaos.verdict import overload_factor
from tests.chaos.world import POLL_SECONDS, World
from tests.support.broker_cluster import BrokerCluster, ClusterNode

MAIL_SECONDS = 5.0  # promised: mail moves again
EVENTS_SECONDS = 60.0  # promised: events wake every service again
EVENT_WAKEUPS = 'vashsender_wakeups_total{cause="event"}'
SETTLED_SECONDS = 3.0  # after this long, no wakeup comes from an event that was delivered before the fault


@fault("of three brokers, the leader of `email` gets kill -9", cluster=True, extra_seconds=100)
async def kill_broker_leader(world: World) -> None:
    node = await leader(world)
    await without(world, node, node.kill, lambda: bring_back(node))


@fault("of three brokers, one that leads nothing of `email` gets kill -9", cluster=True, extra_seconds=100)
async def kill_broker_follower(world: World) -> None:
    leading = await leader(world)
    node = world.random.choice([each for each in cluster(world).nodes if each is not leading])
    await without(world, node, node.kill, lambda: bring_back(node))


@fault("of three brokers, the leader of `email` is stopped (SIGSTOP)", cluster=True, extra_seconds=100)
async def stop_broker_leader(world: World) -> None:
    node = await leader(world)
    await without(world, node, lambda: node.signal(signal.SIGSTOP), lambda: resume(node))


@fault("of three brokers, the leader of `email` is cut off from the other two", cluster=True, extra_seconds=100)
async def cut_broker_leader(world: World) -> None:
    node = await leader(world)
    await without(world, node, lambda: cluster(world).isolate(node), cluster(world).rejoin)


@fault("of three brokers, the leader of `email` is cut off from everyone", cluster=True, extra_seconds=150)
async def cut_broker_machine(world: World) -> None:
    node = await leader(world)
    await without(world, node, lambda: cluster(world).isolate(node, from_clients=True), cluster(world).rejoin)


async def without(
    world: World, node: ClusterNode, take_away: Callable[[], None], give_back: Callable[[], None]
) -> None:
    """Takes a node away, judges what happens without it, and returns when the cluster is whole again."""
    began = time.monotonic()
    await asyncio.to_thread(take_away)
    try:
        await asyncio.sleep(SETTLED_SECONDS)
        await _expect_events(world)
        _expect_mail(world, began, time.monotonic())
    finally:
        await asyncio.to_thread(give_back)
    await asyncio.to_thread(cluster(world).wait_whole)


async def _expect_events(world: World) -> None:
    """Waits until events have woken every consuming service once more; adds a problem if that takes too long."""
    left = {name: await process.metric(EVENT_WAKEUPS) for name, process in world.processes.items() if name != "api"}
    seconds = EVENTS_SECONDS * overload_factor()
    deadline = time.monotonic() + seconds
    while left and time.monotonic() < deadline:
        await asyncio.sleep(POLL_SECONDS)
        left = {
            name: woken for name, woken in left.items() if await world.processes[name].metric(EVENT_WAKEUPS) == woken
        }
    if left:
        world.problems.append(f"no event has woken {', '.join(left)} within {seconds:.0f} s")


def _expect_mail(world: World, begin: float, end: float) -> None:
    """Adds a problem if no email came for too long between two moments, or until every recipient had one."""
    if len(world.relay.copies) >= world.recipients:
        end = min(end, max(email.kept_at for email in world.relay.received))
    came = [begin, *(email.kept_at for email in world.relay.received if begin < email.kept_at < end), end]
    longest = max(later - earlier for earlier, later in pairwise(came))
    seconds = MAIL_SECONDS * overload_factor()
    if longest > seconds:
        world.problems.append(f"no mail moved for {longest:.1f} s, promised: {seconds:.1f} s")


def cluster(world: World) -> BrokerCluster:
    assert world.servers.cluster is not None
    return world.servers.cluster


async def leader(world: World) -> ClusterNode:
    return await asyncio.to_thread(cluster(world).leader, world.servers.vhost.name, topology.EMAIL)


def bring_back(node: ClusterNode) -> None:
    node.start()
    node.wait_ready()


def resume(node: ClusterNode) -> None:
    """Lets a stopped node run on, and restarts it: it takes no notice that the others have gone on without it, so
    RabbitMQ calls the cluster partitioned until then."""
    node.signal(signal.SIGCONT)
    time.sleep(SETTLED_SECONDS)
    node.kill()
    bring_back(node)

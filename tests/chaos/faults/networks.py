"""The network between one sender and a server is cut, in one or both directions, and then restored.

Usually the bytes held back flow again afterwards. With `forget`, the existing connections are dead and neither end is
notified, as after a firewall that has lost its state.
"""

import asyncio
from collections.abc import Mapping

from tests.chaos.catalogue import POSTGRESQL, fault
from tests.chaos.faults.processes import BEYOND_LEASE_SECONDS, DUPLICATES_PER_KILLED_SENDER
from tests.chaos.world import SECONDS_PER_EMAIL, World

OUTBOUND: Mapping[str, bool] = {"requests": True, "answers": False}
INBOUND: Mapping[str, bool] = {"requests": False, "answers": True}
BOTH_WAYS: Mapping[str, bool] = {"requests": True, "answers": True}
SHORT_LIMITS = {"email_soft_seconds": "2", "email_hard_seconds": "3", "relay_rest_seconds": "1"}


@fault("a sender is cut off from the broker, outbound", links=("broker",), extra_seconds=6)
async def cut_broker_out(world: World) -> None:
    await cut(world, "broker", OUTBOUND, world.random.uniform(4, 7))


@fault("a sender is cut off from the broker, inbound", links=("broker",), extra_seconds=6)
async def cut_broker_back(world: World) -> None:
    await cut(world, "broker", INBOUND, world.random.uniform(4, 7))


@fault(
    "a sender is cut off from the broker, both ways, and its connections are forgotten",
    links=("broker",),
    extra_seconds=6,
)
async def cut_broker(world: World) -> None:
    await cut(world, "broker", BOTH_WAYS, world.random.uniform(4, 7), forget=True)


@fault(
    "a sender is cut off from the database beyond its lease, outbound",
    ledgers=(POSTGRESQL,),
    links=("database",),
    outlasts_lease=True,
    extra_seconds=4,
)
async def cut_database_out(world: World) -> None:
    await cut_database_link(world, OUTBOUND)


@fault(
    "a sender is cut off from the database beyond its lease, inbound",
    ledgers=(POSTGRESQL,),
    links=("database",),
    outlasts_lease=True,
    extra_seconds=4,
)
async def cut_database_back(world: World) -> None:
    await cut_database_link(world, INBOUND)


@fault(
    "a sender is cut off from the database beyond its lease, both ways",
    ledgers=(POSTGRESQL,),
    links=("database",),
    outlasts_lease=True,
    extra_seconds=4,
)
async def cut_database(world: World) -> None:
    await cut_database_link(world, BOTH_WAYS)


@fault(
    "a sender is cut off from the database beyond its lease, and its connections are forgotten",
    ledgers=(POSTGRESQL,),
    links=("database",),
    settings={"transaction_seconds": "4"},
    outlasts_lease=True,
    extra_seconds=12,
)
async def cut_database_forgotten(world: World) -> None:
    await cut_database_link(world, BOTH_WAYS, forget=True)


@fault("a sender's connections to the database are reset", ledgers=(POSTGRESQL,), links=("database",))
async def reset_database(world: World) -> None:
    for _ in range(3):
        world.proxies["database"].reset()
        await world.random_pause(0.2, 1)


@fault("a sender is cut off from the relay, outbound", links=("relay",), extra_seconds=4)
async def cut_relay_out(world: World) -> None:
    await cut(world, "relay", OUTBOUND, world.random.uniform(3, 5))


@fault("a sender is cut off from the relay, inbound", links=("relay",), extra_seconds=4)
async def cut_relay_back(world: World) -> None:
    await cut(world, "relay", INBOUND, world.random.uniform(3, 5))


@fault(
    "a sender is cut off from the relay, both ways, longer than an email may take",
    links=("relay",),
    settings=SHORT_LIMITS,
    extra_seconds=8,
)
async def cut_relay(world: World) -> None:
    world.allowed_duplicates += world.proxies["relay"].connections
    await cut(world, "relay", BOTH_WAYS, world.random.uniform(5, 7))


@fault("a sender's connections to the relay are reset", links=("relay",), settings={"relay_rest_seconds": "1"})
async def reset_relay(world: World) -> None:
    for _ in range(3):
        world.allowed_duplicates += world.proxies["relay"].connections
        world.proxies["relay"].reset()
        await world.random_pause(0.2, 1)


async def cut(world: World, link: str, ways: Mapping[str, bool], seconds: float, *, forget: bool = False) -> None:
    proxy = world.proxies[link]
    proxy.cut(**ways)
    await asyncio.sleep(seconds)
    if forget:
        proxy.forget()
    proxy.restore()


async def cut_database_link(world: World, ways: Mapping[str, bool], *, forget: bool = False) -> None:
    world.allowed_duplicates += DUPLICATES_PER_KILLED_SENDER
    await world.at_full_speed()
    seconds = world.conditions.lease_seconds + BEYOND_LEASE_SECONDS + world.random.uniform(0, 2)
    world.proxies["database"].cut(**ways)
    world.relay.behaviour.seconds_per_email = SECONDS_PER_EMAIL
    await cut(world, "database", ways, seconds, forget=forget)

"""The network between one sender and what it needs is cut, one way and both ways, and comes back.

Where it comes back whole, what was held flows again. Where it comes back without its state, the connections of before
are dead and nobody was told.
"""

import asyncio
from collections.abc import Mapping

from tests.chaos.catalogue import POSTGRESQL, fault
from tests.chaos.faults.processes import BEYOND_LEASE_SECONDS, OF_A_DEAD_SENDER
from tests.chaos.world import SECONDS_PER_EMAIL, World

ONE_WAY_OUT: Mapping[str, bool] = {"requests": True, "answers": False}
ONE_WAY_BACK: Mapping[str, bool] = {"requests": False, "answers": True}
BOTH_WAYS: Mapping[str, bool] = {"requests": True, "answers": True}
WAYS = ((ONE_WAY_OUT, "out"), (ONE_WAY_BACK, "back"), (BOTH_WAYS, "both ways"))
SHORT_LIMITS = {"email_soft_seconds": "2", "email_hard_seconds": "3", "relay_rest_seconds": "1"}


@fault("a sender is cut from the broker, out", links=("broker",), lasts_seconds=6)
async def cut_broker_out(it: World) -> None:
    await cut(it, "broker", ONE_WAY_OUT, it.chance.uniform(4, 7))


@fault("a sender is cut from the broker, back", links=("broker",), lasts_seconds=6)
async def cut_broker_back(it: World) -> None:
    await cut(it, "broker", ONE_WAY_BACK, it.chance.uniform(4, 7))


@fault(
    "a sender is cut from the broker, both ways, and its connections are forgotten", links=("broker",), lasts_seconds=6
)
async def cut_broker(it: World) -> None:
    await cut(it, "broker", BOTH_WAYS, it.chance.uniform(4, 7), forget=True)


@fault(
    "a sender is cut from the database beyond its lease, out",
    ledgers=(POSTGRESQL,),
    links=("database",),
    outlasts_lease=True,
    lasts_seconds=4,
)
async def cut_database_out(it: World) -> None:
    await cut_database_link(it, ONE_WAY_OUT)


@fault(
    "a sender is cut from the database beyond its lease, back",
    ledgers=(POSTGRESQL,),
    links=("database",),
    outlasts_lease=True,
    lasts_seconds=4,
)
async def cut_database_back(it: World) -> None:
    await cut_database_link(it, ONE_WAY_BACK)


@fault(
    "a sender is cut from the database beyond its lease, both ways",
    ledgers=(POSTGRESQL,),
    links=("database",),
    outlasts_lease=True,
    lasts_seconds=4,
)
async def cut_database(it: World) -> None:
    await cut_database_link(it, BOTH_WAYS)


@fault(
    "a sender is cut from the database beyond its lease, and its connections are forgotten",
    ledgers=(POSTGRESQL,),
    links=("database",),
    settings={"transaction_seconds": "4"},
    outlasts_lease=True,
    lasts_seconds=12,
)
async def cut_database_forgotten(it: World) -> None:
    await cut_database_link(it, BOTH_WAYS, forget=True)


@fault("a sender's connections to the database are reset", ledgers=(POSTGRESQL,), links=("database",))
async def reset_database(it: World) -> None:
    for _ in range(3):
        it.proxies["database"].reset()
        await it.a_moment(0.2, 1)


@fault("a sender is cut from the relay, out", links=("relay",), lasts_seconds=4)
async def cut_relay_out(it: World) -> None:
    await cut(it, "relay", ONE_WAY_OUT, it.chance.uniform(3, 5))


@fault("a sender is cut from the relay, back", links=("relay",), lasts_seconds=4)
async def cut_relay_back(it: World) -> None:
    await cut(it, "relay", ONE_WAY_BACK, it.chance.uniform(3, 5))


@fault(
    "a sender is cut from the relay, both ways, longer than an email may take",
    links=("relay",),
    settings=SHORT_LIMITS,
    lasts_seconds=8,
)
async def cut_relay(it: World) -> None:
    it.bound += it.proxies["relay"].connections
    await cut(it, "relay", BOTH_WAYS, it.chance.uniform(5, 7))


@fault("a sender's connections to the relay are reset", links=("relay",), settings={"relay_rest_seconds": "1"})
async def reset_relay(it: World) -> None:
    for _ in range(3):
        it.bound += it.proxies["relay"].connections
        it.proxies["relay"].reset()
        await it.a_moment(0.2, 1)


async def cut(it: World, link: str, ways: Mapping[str, bool], seconds: float, *, forget: bool = False) -> None:
    proxy = it.proxies[link]
    proxy.cut(**ways)
    await asyncio.sleep(seconds)
    if forget:
        proxy.forget()
    proxy.restore()


async def cut_database_link(it: World, ways: Mapping[str, bool], *, forget: bool = False) -> None:
    it.bound += OF_A_DEAD_SENDER
    await it.at_full_speed()
    seconds = it.conditions.lease_seconds + BEYOND_LEASE_SECONDS + it.chance.uniform(0, 2)
    it.proxies["database"].cut(**ways)
    it.relay.behaviour.seconds_per_email = SECONDS_PER_EMAIL
    await cut(it, "database", ways, seconds, forget=forget)

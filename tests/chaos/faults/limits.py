"""Senders die or hang while limits hold: none is exceeded."""

import asyncio
import signal

from tests.chaos.catalogue import fault
from tests.chaos.faults.processes import kill
from tests.chaos.world import SENDERS, World, any_of
from tests.support.limits import most_in_a_second

RATE = 100.0
CAP = 900
TAKES_HOLD_SECONDS = 1.5
"""An email begins only after a look of the last 0.9 s, which has read the limits: they count from then on."""
RELAY = "relay:127.0.0.1"
LIMITED = {"fields": {"emails_per_second": RATE}, "recovers": False, "extra_seconds": -5}


@fault("a sender gets kill -9 while the campaign's rate and a daily cap of the relay limit it", **LIMITED)
async def kill_limited_sender(world: World) -> None:
    await limit_relay(world, emails_per_day=CAP)
    await asyncio.sleep(TAKES_HOLD_SECONDS)
    before = len(world.relay.first_bytes)
    for _ in range(2):
        sender = any_of(world, SENDERS)
        await kill(world, sender)
        world.processes[sender].launch()
        world.fault_ended()
        await world.random_pause(1, 2)
    await world.system.wait_until(world.campaign, lambda now: "emails a day is used up" in (now["blocked_by"] or ""))
    if (begun := len(world.relay.first_bytes) - before) > CAP:
        world.problems.append(f"{begun} emails began under a cap of {CAP} a day")
    await limit_relay(world, emails_per_day=10 * CAP)
    world.before_judging.append(lambda: check_rate(world))


@fault("both senders are stopped (SIGSTOP) while the campaign's rate limits them, then continued", **LIMITED)
async def freeze_limited_senders(world: World) -> None:
    for sender in SENDERS:
        world.processes[sender].send_signal(signal.SIGSTOP)
    await world.random_pause(3, 4)
    for sender in SENDERS:
        world.processes[sender].send_signal(signal.SIGCONT)
    world.fault_ended()
    world.before_judging.append(lambda: check_rate(world))


async def limit_relay(world: World, **limits: object) -> None:
    async with world.system.client() as client:
        (await client.put(f"/limits/{RELAY}", json=limits)).raise_for_status()


async def check_rate(world: World) -> None:
    most = most_in_a_second([at for at, _ in world.relay.first_bytes])
    if most > 1.1 * RATE + 1:
        world.problems.append(f"{most} emails began in one second under a limit of {RATE:g}")

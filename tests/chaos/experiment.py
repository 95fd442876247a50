"""One experiment: a campaign runs, a fault breaks something meanwhile, and the result is judged at the end."""

import asyncio
import time
from datetime import UTC, datetime, timedelta

from tests.chaos.catalogue import Fault
from tests.chaos.verdict import Outcome, judge
from tests.chaos.world import EMAILS_PER_SECOND, POLL_SECONDS, Conditions, Servers, World, running_world

STEADY_SECONDS = 1.5  # for measuring the rate before the fault
LASTING_SECONDS = 3
BACK_TO_SPEED = 0.75  # share of the earlier rate that counts as full speed; the machine may be busy
NO_GAP = 0.4  # share of the earlier rate required in every single second
USUAL_SECONDS = 13.0
RECOVERY_SECONDS = 60.0
CLOSING_SECONDS = 150.0


async def run_experiment(fault: Fault, conditions: Conditions, servers: Servers) -> Outcome:
    """Runs one fault. Does not raise when the system misbehaves: `Outcome.problems` lists what went wrong."""
    began = time.monotonic()
    async with running_world(fault, conditions, servers) as world:
        before, after, recovery = 0.0, 0.0, None
        answer = None
        try:
            await _start(world)
            before = await _steady_rate(world)
            await world.random_pause()
            await fault.inflict(world)
            world.fault_ended_at = world.fault_ended_at or time.monotonic()
            if fault.recovers:
                recovery, after = await _back_to_speed(world, before)
            world.relay.behaviour.seconds_per_email = 0.0
            answer = await world.system.wait_closed(world.campaign, CLOSING_SECONDS)
            for step in world.before_judging:
                await step()
            if world.subscribers is not None:
                world.problems += await world.subscribers.account(world.relay.copies)
        except (TimeoutError, AssertionError) as error:
            world.problems.append(str(error).splitlines()[0] if str(error) else "not in time")
        return await judge(
            world,
            answer,
            rate_before=before,
            rate_after=after,
            recovery_seconds=recovery,
            seconds=time.monotonic() - began,
        )


async def _start(world: World) -> None:
    lease_seconds = world.conditions.lease_seconds if world.fault.outlasts_lease else 0.0
    seconds = USUAL_SECONDS + world.fault.extra_seconds + lease_seconds
    fields = {"retry_delay_seconds": 1, **world.fault.fields}
    world.recipients = int(EMAILS_PER_SECOND * seconds)
    world.campaigns.append(await world.system.create(world.recipients, **fields))
    within = world.fault.deliver_within_seconds
    if within is None:
        await world.system.send(world.campaign)
    else:
        within += world.random.uniform(0, 2)
        world.deadline = time.monotonic() + within
        deliver_by = datetime.now(UTC) + timedelta(seconds=within)
        await world.system.send(world.campaign, deliver_by=deliver_by.isoformat())


async def _steady_rate(world: World) -> float:
    """Emails per second at the relay, measured once mail flows."""
    await world.wait_received(int(EMAILS_PER_SECOND / 2))
    begin = time.monotonic()
    await asyncio.sleep(STEADY_SECONDS)
    return world.received_between(begin, begin + STEADY_SECONDS) / STEADY_SECONDS


async def _back_to_speed(world: World, before: float) -> tuple[float, float]:
    """Seconds from the end of the fault until mail flows steadily at the earlier rate, and the rate then.

    The seconds are 0 if mail never slowed down. Raises `AssertionError` if the campaign ended before this was clear."""
    begin = world.fault_ended_at
    async with asyncio.timeout(RECOVERY_SECONDS):
        while True:
            if begin + LASTING_SECONDS <= time.monotonic():
                rates = [
                    world.received_between(begin + second, begin + second + 1) for second in range(LASTING_SECONDS)
                ]
                if min(rates) >= before * NO_GAP and sum(rates) >= before * BACK_TO_SPEED * LASTING_SECONDS:
                    return begin - world.fault_ended_at, sum(rates) / LASTING_SECONDS
                if len(world.relay.copies) == world.recipients:
                    raise AssertionError("the campaign was too short to show whether mail recovered")
                begin += POLL_SECONDS
            else:
                await asyncio.sleep(POLL_SECONDS)

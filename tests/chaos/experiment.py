"""One experiment: a campaign runs, something breaks while it does, and the account is drawn up at its end."""

import asyncio
import time
from datetime import UTC, datetime, timedelta

from tests.chaos.catalogue import Fault
from tests.chaos.verdict import Outcome, judge
from tests.chaos.world import EMAILS_PER_SECOND, LOOK_SECONDS, Conditions, Parts, World, world

STEADY_SECONDS = 1.5  # how long the rate before the fault is measured
LASTING_SECONDS = 3
BACK_TO_SPEED = 0.75  # of the rate before counts as full speed: the machine has other things to do too
NO_GAP = 0.4  # of it, in each single second
USUAL_SECONDS = 13.0
RECOVERY_SECONDS = 60.0
CLOSING_SECONDS = 150.0


async def experiment(fault: Fault, conditions: Conditions, parts: Parts) -> Outcome:
    """Never raises for what the system did wrong: that is told in the outcome's problems."""
    began = time.monotonic()
    async with world(fault, conditions, parts) as it:
        before, after, recovery = 0.0, 0.0, None
        answer = None
        try:
            await _start(it)
            before = await _steady_rate(it)
            await it.a_moment()
            await fault.inflict(it)
            it.over_at = it.over_at or time.monotonic()
            if fault.speeds_up:
                recovery, after = await _back_to_speed(it, before)
            it.relay.behaviour.seconds_per_email = 0.0
            answer = await it.system.wait_closed(it.campaign, CLOSING_SECONDS)
            for step in it.before_verdict:
                await step()
        except (TimeoutError, AssertionError) as error:
            it.problems.append(str(error).splitlines()[0] if str(error) else "not in time")
        return await judge(
            it,
            answer,
            rate_before=before,
            rate_after=after,
            recovery_seconds=recovery,
            seconds=time.monotonic() - began,
        )


async def _start(it: World) -> None:
    lease_seconds = it.conditions.lease_seconds if it.fault.outlasts_lease else 0.0
    seconds = USUAL_SECONDS + it.fault.lasts_seconds + lease_seconds
    fields = {"retry_delay_seconds": 1, **it.fault.fields}
    it.recipients = int(EMAILS_PER_SECOND * seconds)
    it.campaigns.append(await it.system.create(it.recipients, **fields))
    within = it.fault.deliver_within_seconds
    if within is None:
        await it.system.send(it.campaign)
    else:
        within += it.chance.uniform(0, 2)
        it.deadline = time.monotonic() + within
        deliver_by = datetime.now(UTC) + timedelta(seconds=within)
        await it.system.send(it.campaign, deliver_by=deliver_by.isoformat())


async def _steady_rate(it: World) -> float:
    """Emails a second at the relay, once mail flows."""
    await it.wait_received(int(EMAILS_PER_SECOND / 2))
    begin = time.monotonic()
    await asyncio.sleep(STEADY_SECONDS)
    return it.received_between(begin, begin + STEADY_SECONDS) / STEADY_SECONDS


async def _back_to_speed(it: World, before: float) -> tuple[float, float]:
    """Seconds from the end of the fault until mail flows as before and goes on to, and the rate then. Zero where it
    never slowed."""
    begin = it.over_at
    async with asyncio.timeout(RECOVERY_SECONDS):
        while True:
            if begin + LASTING_SECONDS <= time.monotonic():
                rates = [it.received_between(begin + second, begin + second + 1) for second in range(LASTING_SECONDS)]
                if min(rates) >= before * NO_GAP and sum(rates) >= before * BACK_TO_SPEED * LASTING_SECONDS:
                    return begin - it.over_at, sum(rates) / LASTING_SECONDS
                if len(it.relay.copies) == it.recipients:
                    raise AssertionError("the campaign was too short to tell whether mail flows as before")
                begin += LOOK_SECONDS
            else:
                await asyncio.sleep(LOOK_SECONDS)

"""People act at random moments: pause, resume, cancel, retry-failed, a deadline, an import during a `send`."""

import asyncio
import json
import time
from collections.abc import AsyncIterator

from tests.chaos.catalogue import fault
from tests.chaos.faults.relays import chosen, restore_relay
from tests.chaos.world import UNREACHABLE, QuietPeriod, World

ACCEPTED = 202
CONFLICT = 409
RACES = 6
FOREVER = float("inf")


@fault("pause and resume at random moments", extra_seconds=10, in_random_schedule=True)
async def pause_and_resume(world: World) -> None:
    for _ in range(2):
        answered, status = await world.call_action("pause")
        if status not in (ACCEPTED, CONFLICT):  # a conflict if the answer to an earlier try was lost
            world.problems.append(f"pause was answered with {status}")
        await world.random_pause(1.5, 2.5)
        world.quiet_periods.append(QuietPeriod(answered, time.monotonic()))
        await world.call_action("resume")
        await world.random_pause(0.5, 2)


@fault("cancel at a random moment", final_status="cancelled", allowed_statuses=("sent", "cancelled"), recovers=False)
async def cancel(world: World) -> None:
    answered, status = await world.call_action("cancel")
    if status != ACCEPTED:
        world.problems.append(f"cancel was answered with {status}")
    world.quiet_periods.append(QuietPeriod(answered, FOREVER))


@fault(
    "deliver_by passes at a random moment",
    final_status="expired",
    allowed_statuses=("sent", "expired"),
    recovers=False,
    deliver_within_seconds=5,
)
async def expire(world: World) -> None:
    await asyncio.sleep(max(0.0, world.deadline - time.monotonic()))
    world.quiet_periods.append(QuietPeriod(world.deadline, FOREVER))


@fault("retry-failed at random moments", extra_seconds=6)
async def retry_failed(world: World) -> None:
    def answer(rcpt: str, _tries: int) -> bytes | None:
        # In two ways: those that are tried again come one after the other, and the same words would trip the breaker.
        words = b"not yet" if chosen(rcpt, 2) else b"not now"
        return b"550 5.7.1 " + words + b"\r\n" if chosen(rcpt, 3) else None

    world.relay.behaviour.rcpt = answer
    for _ in range(3):
        await world.random_pause(0.5, 1.5)
        await world.call_action("retry-failed")
    restore_relay(world)

    async def until_none_has_failed() -> None:
        async with asyncio.timeout(60):
            while (await world.system.show(world.campaign))["counts"]["failed"]:
                await world.call_action("retry-failed")
                await world.system.wait_closed(world.campaign)

    world.before_judging.append(until_none_has_failed)


@fault("imports and `send` race", extra_seconds=6)
async def race_imports(world: World) -> None:
    """The later one is refused. Every accepted recipient is sent one email."""
    for number in range(RACES):
        campaign = await world.system.create([f"race-{number}-first@example.test"])
        accepted, status = await asyncio.gather(_import(world, campaign, number), _send_late(world, campaign))
        if status == CONFLICT:  # an import was still open
            _, status = await world.call_action("send", campaign=campaign)
        if status != ACCEPTED:
            world.problems.append(f"send was answered with {status} after the imports")
        total = (await world.system.show(campaign))["counts"]["total"]
        if total != 1 + accepted:
            world.problems.append(f"{accepted} recipients were accepted, but the campaign has {total}")
        world.campaigns.append(campaign)

    async def until_all_have_closed() -> None:
        for campaign in world.campaigns[1:]:
            await world.system.wait_closed(campaign)

    world.before_judging.append(until_all_have_closed)


async def _send_late(world: World, campaign: str) -> int:
    await world.random_pause(0.0, 0.3)
    return (await world.call_action("send", campaign=campaign))[1]


async def _import(world: World, campaign: str, number: int) -> int:
    """Uploads recipients slowly. Returns how many the api accepted."""

    async def lines() -> AsyncIterator[bytes]:
        for part in range(20):
            await asyncio.sleep(0.01)
            yield b"".join(
                json.dumps({"email": f"race-{number}-{part}-{row}@example.test"}).encode() + b"\n" for row in range(5)
            )

    await world.random_pause(0.0, 0.2)
    try:
        async with world.system.client() as client:
            response = await client.post(
                f"/campaigns/{campaign}/recipients", content=lines(), headers={"Content-Type": "application/x-ndjson"}
            )
    except UNREACHABLE:
        return 0  # refused before the upload was complete
    if not response.is_success:
        return 0
    accepted: int = response.json()["accepted"]
    return accepted

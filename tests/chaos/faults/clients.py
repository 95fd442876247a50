"""People act at random moments: pause, resume, cancel, retry-failed, a deadline, an import beside a `send`."""

import asyncio
import json
import time
from collections.abc import AsyncIterator

from tests.chaos.catalogue import fault
from tests.chaos.faults.relays import chosen, well_again
from tests.chaos.world import UNREACHABLE, Quiet, World

ACCEPTED = 202
CONFLICT = 409
RACES = 6
FOREVER = float("inf")


@fault("pause and resume at random moments", lasts_seconds=10, mixes=True)
async def pause_and_resume(it: World) -> None:
    for _ in range(2):
        answered, status = await it.act("pause")
        if status not in (ACCEPTED, CONFLICT):  # a conflict where the answer to an earlier try was lost
            it.problems.append(f"pause was answered with {status}")
        await it.a_moment(1.5, 2.5)
        it.quiet.append(Quiet(answered, time.monotonic()))
        await it.act("resume")
        await it.a_moment(0.5, 2)


@fault("cancel at a random moment", ends_as="cancelled", may_be=("sent", "cancelled"), speeds_up=False)
async def cancel(it: World) -> None:
    answered, status = await it.act("cancel")
    if status != ACCEPTED:
        it.problems.append(f"cancel was answered with {status}")
    it.quiet.append(Quiet(answered, FOREVER))


@fault(
    "deliver_by passes at a random moment",
    ends_as="expired",
    may_be=("sent", "expired"),
    speeds_up=False,
    deliver_within_seconds=5,
)
async def expire(it: World) -> None:
    await asyncio.sleep(max(0.0, it.deadline - time.monotonic()))
    it.quiet.append(Quiet(it.deadline, FOREVER))


@fault("retry-failed at random moments", lasts_seconds=6)
async def retry_failed(it: World) -> None:
    it.relay.behaviour.rcpt = lambda rcpt, _tries: b"550 5.7.1 not yet\r\n" if chosen(rcpt, 3) else None
    for _ in range(3):
        await it.a_moment(0.5, 1.5)
        await it.act("retry-failed")
    well_again(it)

    async def until_none_has_failed() -> None:
        async with asyncio.timeout(60):
            while (await it.system.show(it.campaign))["counts"]["failed"]:
                await it.act("retry-failed")
                await it.system.wait_closed(it.campaign)

    it.before_verdict.append(until_none_has_failed)


@fault("imports and `send` race", lasts_seconds=6)
async def race_imports(it: World) -> None:
    """Whoever is later is refused; whatever was accepted is sent, once."""
    for number in range(RACES):
        campaign = await it.system.create([f"race-{number}-first@example.test"])
        accepted, status = await asyncio.gather(_import(it, campaign, number), _send_late(it, campaign))
        if status == CONFLICT:  # an import was open
            _, status = await it.act("send", campaign=campaign)
        if status != ACCEPTED:
            it.problems.append(f"send was answered with {status} after the imports")
        total = (await it.system.show(campaign))["counts"]["total"]
        if total != 1 + accepted:
            it.problems.append(f"{accepted} recipients were accepted, the campaign has {total}")
        it.campaigns.append(campaign)

    async def until_all_have_closed() -> None:
        for campaign in it.campaigns[1:]:
            await it.system.wait_closed(campaign)

    it.before_verdict.append(until_all_have_closed)


async def _send_late(it: World, campaign: str) -> int:
    await it.a_moment(0.0, 0.3)
    return (await it.act("send", campaign=campaign))[1]


async def _import(it: World, campaign: str, number: int) -> int:
    """Recipients that come slowly; returns how many were accepted."""

    async def lines() -> AsyncIterator[bytes]:
        for part in range(20):
            await asyncio.sleep(0.01)
            yield b"".join(
                json.dumps({"email": f"race-{number}-{part}-{row}@example.test"}).encode() + b"\n" for row in range(5)
            )

    await it.a_moment(0.0, 0.2)
    try:
        async with it.system.client() as client:
            response = await client.post(
                f"/campaigns/{campaign}/recipients", content=lines(), headers={"Content-Type": "application/x-ndjson"}
            )
    except UNREACHABLE:
        return 0  # refused before its end was sent
    if not response.is_success:
        return 0
    accepted: int = response.json()["accepted"]
    return accepted

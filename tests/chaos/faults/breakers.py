"""The relay refuses everyone: a breaker pauses the campaign, and a person retries the refused once it is mended."""

import asyncio
from typing import Any

from sqlalchemy import func, select

from shared.ledger.models import Suppression
from tests.chaos.catalogue import fault
from tests.chaos.faults.processes import DUPLICATES_PER_KILLED_SENDER
from tests.chaos.faults.relays import SHORT_REST, restore_relay
from tests.chaos.world import POLL_SECONDS, SENDERS, TIMEOUT_SECONDS, World, any_of

MOST_FAILED = 100


@fault("the relay says of everyone that there is no such mailbox", settings=SHORT_REST, extra_seconds=6)
async def refuse_everyone(world: World) -> None:
    world.relay.behaviour.rcpt = lambda _rcpt, _tries: b"550 5.1.1 User unknown\r\n"
    await paused_by_breaker(world)
    await mend_and_retry(world)


@fault(
    "the relay refuses everyone, and a sender gets kill -9 while the breaker trips",
    settings=SHORT_REST,
    extra_seconds=10,
)
async def refuse_everyone_and_kill(world: World) -> None:
    """It dies some milliseconds after the first refusal: before, while or after it records the trip."""
    world.relay.behaviour.rcpt = lambda _rcpt, _tries: b"550 5.1.1 User unknown\r\n"
    sender = any_of(world, SENDERS)
    await world.random_pause(0.0, 0.3)
    world.allowed_duplicates += DUPLICATES_PER_KILLED_SENDER
    await asyncio.to_thread(world.processes[sender].kill)
    world.processes[sender].launch()
    await paused_by_breaker(world)
    await world.processes[sender].wait_ready()
    await mend_and_retry(world)


async def paused_by_breaker(world: World) -> None:
    def is_paused(answer: dict[str, Any]) -> bool:
        return bool(answer["status"] == "paused")

    answer = await world.system.wait_until(world.campaign, is_paused, TIMEOUT_SECONDS)
    if answer["breaker"] != "relay" or "550 5.1.1" not in answer["reason"]:
        world.problems.append(f"paused by {answer['breaker']}: {answer['reason']}")


async def mend_and_retry(world: World) -> None:
    """Resumes when all results are recorded."""
    restore_relay(world)
    async with asyncio.timeout(TIMEOUT_SECONDS):
        accepted = False
        while not accepted:
            await asyncio.sleep(POLL_SECONDS)
            failed = (await world.system.show(world.campaign))["counts"]["failed"]
            _, status = await world.call_action("resume", {"refused": "retry"})
            accepted = status == 202
    if failed >= MOST_FAILED:
        world.problems.append(f"{failed} recipients failed before the breaker tripped")
    world.before_judging.append(lambda: no_one_is_suppressed(world))


async def no_one_is_suppressed(world: World) -> None:
    async with world.observer.read() as connection:
        suppressed = await connection.scalar(select(func.count()).select_from(Suppression))
    if suppressed:
        world.problems.append(f"{suppressed} recipients stay suppressed")

"""Processes die, stop, and hang."""

import asyncio
import signal
import time

from sqlalchemy import select
from sqlmodel import col

from shared.ledger.database import clock
from shared.ledger.models import Batch
from shared.ledger.states import LIVE, BatchState
from tests.chaos.catalogue import fault
from tests.chaos.world import (
    CONNECTIONS,
    LOOK_SECONDS,
    PATIENCE_SECONDS,
    SECONDS_PER_EMAIL,
    SENDERS,
    UNRECORDED,
    World,
    any_of,
)

RESTARTED_SECONDS = 3.0  # a killed sender's batch is in work again, where the supervisor starts the sender at once
BEYOND_LEASE_SECONDS = 2.0
OF_A_DEAD_SENDER = CONNECTIONS + UNRECORDED
"""Duplicates a sender may leave behind that had no time to record."""


@fault("a sender gets kill -9, its supervisor starts it again", mixes=True)
async def kill_sender(it: World) -> None:
    sender = any_of(it, SENDERS)
    await kill(it, sender)
    it.processes[sender].launch()
    it.over()
    await back_in_work(it, sender, RESTARTED_SECONDS)
    await it.processes[sender].wait_ready()


@fault(
    "a sender gets kill -9 and stays away beyond its lease",
    settings={"batch_size": "10000"},
    outlasts_lease=True,
    lasts_seconds=4,
)
async def lose_sender(it: World) -> None:
    """A few large batches, all of them in hand, and a third sender that has nothing to do."""
    it.system.launch("sender", "sender-3")
    await it.processes["sender-3"].wait_ready()
    sender = any_of(it, sorted(await it.ask(lambda: busy_senders(it))))
    await kill(it, sender)
    await back_in_work(it, sender, it.conditions.lease_seconds + BEYOND_LEASE_SECONDS)
    it.processes[sender].launch()
    it.over()
    await it.processes[sender].wait_ready()


@fault("every sender gets kill -9 three times in a row", lasts_seconds=25)
async def kill_senders_again_and_again(it: World) -> None:
    for _ in range(3):
        await kill(it, *SENDERS)
        for sender in SENDERS:
            it.processes[sender].launch()
        it.over()
        await it.a_moment(1.5, 3)


@fault("the dispatcher gets kill -9", mixes=True)
async def kill_dispatcher(it: World) -> None:
    await kill_and_restart(it, "dispatcher")


@fault("the watchdog gets kill -9", mixes=True)
async def kill_watchdog(it: World) -> None:
    await kill_and_restart(it, "watchdog")


@fault("the api gets kill -9", mixes=True)
async def kill_api(it: World) -> None:
    await kill_and_restart(it, "api")


@fault("all services get kill -9 at once", lasts_seconds=5, mixes=True)
async def kill_all(it: World) -> None:
    await it.at_full_speed()
    for name, process in it.processes.items():
        await asyncio.to_thread(process.kill)
        it.bound += OF_A_DEAD_SENDER if name in SENDERS else 0
    it.relay.behaviour.seconds_per_email = SECONDS_PER_EMAIL
    it.over()
    for process in it.processes.values():
        process.launch()
    await asyncio.gather(*(process.wait_ready() for process in it.processes.values()))


@fault("a sender gets SIGTERM, its supervisor starts it again", mixes=True)
async def stop_sender(it: World) -> None:
    await stop_and_restart(it, any_of(it, SENDERS))


@fault("the dispatcher gets SIGTERM", mixes=True)
async def stop_dispatcher(it: World) -> None:
    await stop_and_restart(it, "dispatcher")


@fault("the watchdog gets SIGTERM", mixes=True)
async def stop_watchdog(it: World) -> None:
    await stop_and_restart(it, "watchdog")


@fault("the api gets SIGTERM", mixes=True)
async def stop_api(it: World) -> None:
    await stop_and_restart(it, "api")


@fault("all services get SIGTERM at once", lasts_seconds=5, mixes=True)
async def stop_all(it: World) -> None:
    codes = await asyncio.gather(*(process.stop() for process in it.processes.values()))
    if any(codes):
        it.problems.append(f"exit codes after SIGTERM: {dict(zip(it.processes, codes, strict=True))}")
    it.over()
    for process in it.processes.values():
        process.launch()
    await asyncio.gather(*(process.wait_ready() for process in it.processes.values()))


@fault("a sender is stopped (SIGSTOP) beyond its lease, then continued", outlasts_lease=True, lasts_seconds=4)
async def freeze_sender(it: World) -> None:
    sender = any_of(it, SENDERS)
    await it.at_full_speed()
    it.processes[sender].send_signal(signal.SIGSTOP)
    it.relay.behaviour.seconds_per_email = SECONDS_PER_EMAIL
    await asyncio.sleep(it.conditions.lease_seconds + BEYOND_LEASE_SECONDS + it.chance.uniform(0, 2))
    it.bound += OF_A_DEAD_SENDER
    it.processes[sender].send_signal(signal.SIGCONT)


@fault("a sender is stopped (SIGSTOP) for less than its lease", outlasts_lease=True, mixes=True)
async def doze_sender(it: World) -> None:
    """Nobody may take its batches meanwhile, and it goes on with them."""
    sender = any_of(it, SENDERS)
    it.processes[sender].send_signal(signal.SIGSTOP)
    # A lease may be a renewal old when the process stops, and another may be due before it is renewed again.
    await asyncio.sleep(it.conditions.lease_seconds * it.chance.uniform(0.2, 0.5))
    it.processes[sender].send_signal(signal.SIGCONT)


@fault("two dispatchers and two watchdogs race, one of each gets kill -9", twins=True)
async def twins(it: World) -> None:
    await it.a_moment(1, 2)
    for service in ("dispatcher", "watchdog"):
        await kill_and_restart(it, any_of(it, (service, f"{service}-2")))


async def kill(it: World, *senders: str) -> None:
    """At the worst moment."""
    await it.at_full_speed()
    for sender in senders:
        await asyncio.to_thread(it.processes[sender].kill)
        it.bound += OF_A_DEAD_SENDER
    it.relay.behaviour.seconds_per_email = SECONDS_PER_EMAIL


async def kill_and_restart(it: World, name: str) -> None:
    process = it.processes[name]
    await asyncio.to_thread(process.kill)
    await it.a_moment()
    process.launch()
    it.over()
    await process.wait_ready()


async def stop_and_restart(it: World, name: str) -> None:
    process = it.processes[name]
    code = await process.stop()
    if code:
        it.problems.append(f"{name} ended with {code} after SIGTERM")
    process.launch()
    it.over()
    await process.wait_ready()


async def busy_senders(it: World) -> set[str]:
    """The senders that have a batch in hand."""
    async with it.eyes.read() as connection:
        owners = await connection.scalars(
            select(col(Batch.owner)).where(col(Batch.state) == BatchState.SENDING.value, col(Batch.owner).is_not(None))
        )
        return {str(owner).partition("@")[0] for owner in owners}


async def back_in_work(it: World, sender: str, promised: float) -> None:
    """Waits until somebody has claimed again what a killed sender held."""
    killed_at = time.monotonic()

    async def held() -> tuple[float, dict[int, float | None]]:
        async with it.eyes.read() as connection:
            rows = await connection.execute(
                select(col(Batch.id), col(Batch.claimed_at)).where(
                    col(Batch.owner).like(f"{sender}@%"), col(Batch.state) == BatchState.SENDING.value
                )
            )
            return await clock(connection), {row[0]: row[1] for row in rows}

    async def claims(ids: list[int]) -> dict[int, tuple[str, float | None]]:
        async with it.eyes.read() as connection:
            rows = await connection.execute(
                select(col(Batch.id), col(Batch.state), col(Batch.claimed_at)).where(col(Batch.id).in_(ids))
            )
            return {row[0]: (row[1], row[2]) for row in rows}

    now, batches = await it.ask(held)
    killed_by_its_clock = now - (time.monotonic() - killed_at)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while batches:
            for batch_id, (state, claimed_at) in (await it.ask(lambda: claims(list(batches)))).items():
                if claimed_at is not None and claimed_at != batches[batch_id]:
                    it.again_seconds.append((claimed_at - killed_by_its_clock, promised))
                elif state in LIVE:
                    continue
                del batches[batch_id]
            await asyncio.sleep(LOOK_SECONDS)

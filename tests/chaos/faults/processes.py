"""Processes are killed, stopped and frozen."""

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
    POLL_SECONDS,
    SECONDS_PER_EMAIL,
    SENDERS,
    TIMEOUT_SECONDS,
    UNRECORDED_LIMIT,
    World,
    any_of,
)

RESTARTED_SECONDS = 3.0  # promised for claiming a killed sender's batches if the supervisor restarts it at once
BEYOND_LEASE_SECONDS = 2.0  # promised on top of the lease if it does not
DUPLICATES_PER_KILLED_SENDER = CONNECTIONS + UNRECORDED_LIMIT
"""Emails a killed sender may have sent without recording them."""


@fault("a sender gets kill -9, its supervisor restarts it", in_random_schedule=True)
async def kill_sender(world: World) -> None:
    sender = any_of(world, SENDERS)
    await kill(world, sender)
    world.processes[sender].launch()
    world.fault_ended()
    await wait_reclaimed(world, sender, RESTARTED_SECONDS)
    await world.processes[sender].wait_ready()


@fault(
    "a sender gets kill -9 while its provider takes 8 emails at a time",
    settings={"provider_limits": "example.test=8"},
    extra_seconds=-5,
)
async def kill_sender_at_a_limited_provider(world: World) -> None:
    """Its share comes back with it."""
    await kill_sender(world)


@fault(
    "a sender gets kill -9 and stays away beyond its lease",
    settings={"batch_size": "10000"},
    outlasts_lease=True,
    extra_seconds=4,
)
async def lose_sender(world: World) -> None:
    """All batches are held, being large and few; a third sender is idle."""
    world.system.launch("sender", "sender-3")
    await world.processes["sender-3"].wait_ready()
    sender = any_of(world, sorted(await world.query(lambda: senders_with_batches(world))))
    await kill(world, sender)
    await wait_reclaimed(world, sender, world.conditions.lease_seconds + BEYOND_LEASE_SECONDS)
    world.processes[sender].launch()
    world.fault_ended()
    await world.processes[sender].wait_ready()


@fault("every sender gets kill -9 three times in a row", extra_seconds=25)
async def kill_senders_repeatedly(world: World) -> None:
    for _ in range(3):
        await kill(world, *SENDERS)
        for sender in SENDERS:
            world.processes[sender].launch()
        world.fault_ended()
        await world.random_pause(1.5, 3)


@fault("the dispatcher gets kill -9", in_random_schedule=True)
async def kill_dispatcher(world: World) -> None:
    await kill_and_restart(world, "dispatcher")


@fault("the watchdog gets kill -9", in_random_schedule=True)
async def kill_watchdog(world: World) -> None:
    await kill_and_restart(world, "watchdog")


@fault("the api gets kill -9", in_random_schedule=True)
async def kill_api(world: World) -> None:
    await kill_and_restart(world, "api")


@fault("all services get kill -9 at once", extra_seconds=5, in_random_schedule=True)
async def kill_all(world: World) -> None:
    await world.at_full_speed()
    for name, process in world.processes.items():
        await asyncio.to_thread(process.kill)
        world.allowed_duplicates += DUPLICATES_PER_KILLED_SENDER if name in SENDERS else 0
    world.relay.behaviour.seconds_per_email = SECONDS_PER_EMAIL
    world.fault_ended()
    for process in world.processes.values():
        process.launch()
    await asyncio.gather(*(process.wait_ready() for process in world.processes.values()))


@fault("a sender gets SIGTERM, its supervisor restarts it", in_random_schedule=True)
async def stop_sender(world: World) -> None:
    await stop_and_restart(world, any_of(world, SENDERS))


@fault("the dispatcher gets SIGTERM", in_random_schedule=True)
async def stop_dispatcher(world: World) -> None:
    await stop_and_restart(world, "dispatcher")


@fault("the watchdog gets SIGTERM", in_random_schedule=True)
async def stop_watchdog(world: World) -> None:
    await stop_and_restart(world, "watchdog")


@fault("the api gets SIGTERM", in_random_schedule=True)
async def stop_api(world: World) -> None:
    await stop_and_restart(world, "api")


@fault("all services get SIGTERM at once", extra_seconds=5, in_random_schedule=True)
async def stop_all(world: World) -> None:
    codes = await asyncio.gather(*(process.stop() for process in world.processes.values()))
    if any(codes):
        world.problems.append(f"exit codes after SIGTERM: {dict(zip(world.processes, codes, strict=True))}")
    world.fault_ended()
    for process in world.processes.values():
        process.launch()
    await asyncio.gather(*(process.wait_ready() for process in world.processes.values()))


@fault("a sender is stopped (SIGSTOP) beyond its lease, then continued", outlasts_lease=True, extra_seconds=4)
async def freeze_sender(world: World) -> None:
    sender = any_of(world, SENDERS)
    await world.at_full_speed()
    world.processes[sender].send_signal(signal.SIGSTOP)
    world.relay.behaviour.seconds_per_email = SECONDS_PER_EMAIL
    await asyncio.sleep(world.conditions.lease_seconds + BEYOND_LEASE_SECONDS + world.random.uniform(0, 2))
    world.allowed_duplicates += DUPLICATES_PER_KILLED_SENDER
    world.processes[sender].send_signal(signal.SIGCONT)


@fault("a sender is stopped (SIGSTOP) for less than its lease", outlasts_lease=True, in_random_schedule=True)
async def freeze_sender_briefly(world: World) -> None:
    """No other sender may take its batches, and it continues with them."""
    sender = any_of(world, SENDERS)
    world.processes[sender].send_signal(signal.SIGSTOP)
    # The last renewal may be one interval old when the process stops, and the next may take another.
    await asyncio.sleep(world.conditions.lease_seconds * world.random.uniform(0.2, 0.5))
    world.processes[sender].send_signal(signal.SIGCONT)


@fault("two dispatchers and two watchdogs race; one of each gets kill -9", two_of_each=True)
async def race_two_of_each(world: World) -> None:
    await world.random_pause(1, 2)
    for service in ("dispatcher", "watchdog"):
        await kill_and_restart(world, any_of(world, (service, f"{service}-2")))


async def kill(world: World, *senders: str) -> None:
    """Kills senders with as many emails in flight as possible."""
    await world.at_full_speed()
    for sender in senders:
        await asyncio.to_thread(world.processes[sender].kill)
        world.allowed_duplicates += DUPLICATES_PER_KILLED_SENDER
    world.relay.behaviour.seconds_per_email = SECONDS_PER_EMAIL


async def kill_and_restart(world: World, name: str) -> None:
    process = world.processes[name]
    await asyncio.to_thread(process.kill)
    await world.random_pause()
    process.launch()
    world.fault_ended()
    await process.wait_ready()


async def stop_and_restart(world: World, name: str) -> None:
    process = world.processes[name]
    code = await process.stop()
    if code:
        world.problems.append(f"{name} ended with {code} after SIGTERM")
    process.launch()
    world.fault_ended()
    await process.wait_ready()


async def senders_with_batches(world: World) -> set[str]:
    """The names of the senders that hold a batch."""
    async with world.observer.read() as connection:
        owners = await connection.scalars(
            select(col(Batch.owner)).where(col(Batch.state) == BatchState.SENDING.value, col(Batch.owner).is_not(None))
        )
        return {str(owner).partition("@")[0] for owner in owners}


async def wait_reclaimed(world: World, sender: str, promised: float) -> None:
    """Waits until every batch of a killed sender is claimed again, and records how long that took."""
    killed_at = time.monotonic()

    async def held() -> tuple[float, dict[int, float | None]]:
        async with world.observer.read() as connection:
            rows = await connection.execute(
                select(col(Batch.id), col(Batch.claimed_at)).where(
                    col(Batch.owner).like(f"{sender}@%"), col(Batch.state) == BatchState.SENDING.value
                )
            )
            return await clock(connection), {row[0]: row[1] for row in rows}

    async def claims(ids: list[int]) -> dict[int, tuple[str, float | None]]:
        async with world.observer.read() as connection:
            rows = await connection.execute(
                select(col(Batch.id), col(Batch.state), col(Batch.claimed_at)).where(col(Batch.id).in_(ids))
            )
            return {row[0]: (row[1], row[2]) for row in rows}

    now, batches = await world.query(held)
    killed_by_its_clock = now - (time.monotonic() - killed_at)
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while batches:
            for batch_id, (state, claimed_at) in (await world.query(lambda: claims(list(batches)))).items():
                if claimed_at is not None and claimed_at != batches[batch_id]:
                    world.reclaimed_seconds.append((claimed_at - killed_by_its_clock, promised))
                elif state in LIVE:
                    continue
                del batches[batch_id]
            await asyncio.sleep(POLL_SECONDS)

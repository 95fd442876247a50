"""From one sender to four and back to one while a campaign runs. Nothing is lost or duplicated.

A sender that stays keeps working, a new one gets work at once, and one that leaves gives its batches back."""

import asyncio
import signal
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest
from sqlalchemy import func, select
from sqlmodel import col

from shared.ledger.database import Ledger, clock
from shared.ledger.models import Batch
from shared.ledger.states import BatchState
from tests.support.relay import RecordingRelay
from tests.support.system import System
from tests.support.waiting import until

pytestmark = [pytest.mark.more, pytest.mark.timeout(300)]

RECIPIENTS = 8_000
CONNECTIONS = 4
RELAY_SECONDS = 0.02
"""Seconds the relay takes for an email, so that the relay is the limit and not this machine's CPU."""

MEASURED_SECONDS = 2.0
STAYS, COME_AND_GO = "sender-1", ("sender-2", "sender-3", "sender-4")
JOIN_SECONDS = 1.0
LEASE_SECONDS = 15.0
"""A batch that was given back is claimed sooner than a rescued one."""


@dataclass(frozen=True, slots=True)
class Held:
    """A claim: a batch held by a sender at a generation."""

    batch_id: int
    generation: int
    owner: str
    claimed_at: float


@dataclass
class Watch:
    """Records every claim it sees."""

    ledger: Ledger
    seen: set[Held] = field(default_factory=set)

    async def look(self) -> set[Held]:
        """The current claims."""
        async with self.ledger.read() as connection:
            rows = await connection.execute(
                select(col(Batch.id), col(Batch.generation), col(Batch.owner), col(Batch.claimed_at)).where(
                    col(Batch.state) == BatchState.SENDING.value
                )
            )
            now = {Held(row[0], row[1], str(row[2]), float(row[3] or 0)) for row in rows}
        self.seen |= now
        return now

    async def now(self) -> float:
        """The time by the clock of the claims."""
        async with self.ledger.read() as connection:
            return await clock(connection)

    def of(self, name: str) -> list[Held]:
        """The claims of a sender, in order."""
        return sorted((held for held in self.seen if held.owner.startswith(f"{name}@")), key=lambda one: one.claimed_at)

    def after(self, held: Held) -> list[Held]:
        """Later claims of the same batch, in order."""
        later = (one for one in self.seen if one.batch_id == held.batch_id and one.generation > held.generation)
        return sorted(later, key=lambda one: one.generation)

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        async def look_on() -> None:
            while True:
                await self.look()
                await asyncio.sleep(0.03)

        task = asyncio.create_task(look_on())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


@pytest.fixture
def system(system: System) -> System:
    system.settings |= {"smtp_connections": str(CONNECTIONS), "batch_size": "50"}
    return system


@pytest.fixture
async def watch(database_url: str) -> AsyncIterator[Watch]:
    ledger = Ledger(database_url, pool_size=1)
    yield Watch(ledger)
    await ledger.close()


async def test_senders_join_and_leave_under_load(system: System, relay: RecordingRelay, watch: Watch) -> None:
    relay.behaviour.seconds_per_email = RELAY_SECONDS
    await system.start(senders=1)
    pid = system.processes[STAYS].pid
    campaign = await system.create(RECIPIENTS)
    async with watch.watching():
        await system.send(campaign)
        await system.wait_until(campaign, lambda answer: answer["counts"]["sent"] > 0)
        alone = await _rate(relay)

        joined = await _join(system, watch)
        four = await _rate(relay)

        gone = await _leave(system, watch)
        again = await _rate(relay)

        relay.behaviour.seconds_per_email = 0.0
        answer = await system.wait_closed(campaign, 200)

    sys.stdout.write(
        f"emails/s: one sender {alone:.0f}, four {four:.0f}, one {again:.0f}; "
        f"first work after ready: {', '.join(f'{seconds:+.2f} s' for seconds in joined)}; "
        f"given back and in work again: {', '.join(f'{seconds:.2f} s' for seconds in gone)}\n"
    )
    account = await system.reconcile(campaign)
    assert (answer["status"], account.counts["sent"]) == ("finished", RECIPIENTS)
    assert (account.lost, account.duplicated, account.unrecorded) == (0, 0, 0)
    assert statistics.median(joined) <= JOIN_SECONDS
    assert max(joined) <= JOIN_SECONDS * 5, "more than a busy machine explains"
    assert statistics.median(gone) < LEASE_SECONDS
    assert await _rescues(watch) == 0
    assert system.processes[STAYS].pid == pid
    assert system.processes[STAYS].log_text().count('"service.started"') == 1


async def _join(system: System, watch: Watch) -> list[float]:
    """Starts three more senders. Returns the seconds from readiness to the first batch of each; may be negative."""
    kept = await _held_by(STAYS, watch)

    async def join(name: str) -> float:
        await system.launch("sender", name).wait_ready()
        return await watch.now()

    ready = await asyncio.gather(*(join(name) for name in COME_AND_GO))
    await until(lambda: all(watch.of(name) for name in COME_AND_GO))
    await _assert_finished_by_holder(kept, watch)
    return [watch.of(name)[0].claimed_at - moment for name, moment in zip(COME_AND_GO, ready, strict=True)]


async def _leave(system: System, watch: Watch) -> list[float]:
    """Stops three senders. Returns the seconds from the signal until each returned batch is claimed again."""
    kept = await _held_by(STAYS, watch)
    told = await watch.now()
    for name in COME_AND_GO:
        system.processes[name].send_signal(signal.SIGTERM)
    await asyncio.gather(*(system.processes[name].wait_ended_cleanly() for name in COME_AND_GO))
    last = {held.batch_id: held for name in COME_AND_GO for held in watch.of(name)}
    async with watch.ledger.read() as connection:
        rows = (await connection.execute(select(col(Batch.id), col(Batch.state)).where(col(Batch.id).in_(last)))).all()
    open_ones = [last[id_] for id_, state in rows if state != BatchState.DONE.value]
    assert open_ones, "none of the three had anything left to give back"
    await until(lambda: all(watch.after(held) for held in open_ones))
    await _assert_finished_by_holder(kept, watch)
    return [watch.after(held)[0].claimed_at - told for held in open_ones]


async def _held_by(name: str, watch: Watch) -> list[Held]:
    """The current claims of a sender. Waits, as it may be between two batches."""
    held: list[Held] = []

    async def found() -> bool:
        held[:] = [one for one in await watch.look() if one.owner.startswith(f"{name}@")]
        return bool(held)

    await until(found)
    return held


async def _assert_finished_by_holder(kept: list[Held], watch: Watch) -> None:
    """Checks that no other sender had them: finishing raises the generation by one."""
    expected = {held.batch_id: held.generation + 1 for held in kept}
    done: dict[int, int] = {}

    async def all_done() -> bool:
        async with watch.ledger.read() as connection:
            rows = await connection.execute(
                select(col(Batch.id), col(Batch.generation)).where(
                    col(Batch.id).in_(expected), col(Batch.state) == BatchState.DONE.value
                )
            )
            done.update((row[0], row[1]) for row in rows)
        return len(done) == len(expected)

    await until(all_done)
    assert done == expected


async def _rescues(watch: Watch) -> int:
    async with watch.ledger.read() as connection:
        return int((await connection.execute(select(func.sum(col(Batch.rescues))))).scalar_one())


async def _rate(relay: RecordingRelay) -> float:
    """The current rate at the relay, in emails per second."""
    before, began = len(relay.received), time.monotonic()
    await asyncio.sleep(MEASURED_SECONDS)
    return (len(relay.received) - before) / (time.monotonic() - began)

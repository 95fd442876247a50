"""What the dispatcher and the watchdog cost as more campaigns are open, on durable ledgers, without broker and relay.

`rounds`: a round of the dispatcher, with nothing due, with ten campaigns due, and with all due.
`emails`: the dispatcher's time for 20,000 emails in 10 and in 2,000 campaigns.
`jobs`: how long a small campaign waits for its closing beside long jobs (three campaigns that are cancelled).
`sweep`: a tick of the watchdog's sweep.
"""

import argparse
import asyncio
import logging
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from uuid import UUID

import structlog
from rich.table import Table
from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncConnection
from uuid6 import uuid7

from bench.campaign import folder, ledger_url
from bench.reports import write_report
from bench.tables import show_table
from services.dispatcher.dispatcher import FIRST_LAP_AT_ONCE
from shared.ledger import migrate
from shared.ledger.database import Ledger, db_now
from shared.ledger.models import Batch, Campaign, Project, Recipient
from tests.support.ledger import FakeSender, add_campaign, campaign_row
from tests.support.services import DispatcherRig, WatchdogRig, register_sender

LEDGERS = ("sqlite", "postgresql")
EMAILS = 20_000
FILLED_AT_ONCE = 500
LONG_JOBS = 3

Measure = Callable[[Ledger, int], Awaitable[dict[str, float]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("jobs", "rounds", "emails", "sweep"))
    parser.add_argument("--recipients", type=int, default=200_000, help="jobs: of each campaign that is cancelled")
    parser.add_argument(
        "--campaigns", type=int, nargs="+", default=[10, 100, 1000, 10_000], help="rounds: how many open"
    )
    parser.add_argument("--ledgers", nargs="+", default=LEDGERS, choices=LEDGERS)
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    rows: list[dict[str, object]] = []
    measures: dict[str, tuple[Measure, Sequence[int]]] = {
        "jobs": (jobs, [options.recipients]),
        "rounds": (rounds, options.campaigns),
        "emails": (emails, [10, 2000]),
        "sweep": (sweep, options.campaigns),
    }
    measure, sizes = measures[options.what]
    for name in options.ledgers:
        rows += [{"ledger": name, **_on_ledger(name, measure, number)} for number in sizes]
    _show(options.what, rows)
    write_report(f"rounds-{options.what}", rows=rows)


def _on_ledger(name: str, measure: Measure, number: int) -> dict[str, float]:
    async def run(url: str) -> dict[str, float]:
        ledger = Ledger(url, pool_size=8)
        try:
            return await measure(ledger, number)
        finally:
            await ledger.close()

    with folder() as work, ledger_url(name, work) as url:
        migrate.upgrade(url)
        return asyncio.run(run(url))


async def rounds(ledger: Ledger, number: int) -> dict[str, float]:
    """Milliseconds of a round while so many campaigns are open: nothing due; ten of them due; and all due, there per
    batch released."""
    await _fill(ledger, number, batches_due_in=3600.0)
    rig, sender = DispatcherRig.on(ledger), FakeSender(ledger)
    await register_sender(ledger, 5)
    for _ in range(number // FIRST_LAP_AT_ONCE + 2):  # the first lap, which a process runs once
        await rig.round()
    idle = await _median_round(rig)
    ten: list[float] = []
    for _ in range(5):
        await _make_due(ledger, 10)
        seconds, released = await _timed_rounds(rig, sender, 10)
        ten.append(seconds / released)
    await _make_due(ledger, number)
    seconds, released = await _timed_rounds(rig, sender, min(number, 200))
    return {
        "campaigns": number,
        "nothing due, ms": idle * 1e3,
        "ten due, ms each": statistics.median(ten) * 1e3,
        "all due, ms each": seconds / released * 1e3,
    }


async def emails(ledger: Ledger, number: int) -> dict[str, float]:
    """Seconds of the dispatcher until 20,000 emails in so many campaigns are released and all campaigns closed. A fake
    sender takes no time of it."""
    await register_sender(ledger, 4)
    for _ in range(number):
        await add_campaign(ledger, EMAILS // number)
    rig, sender = DispatcherRig.on(ledger), FakeSender(ledger)
    seconds, cpu = 0.0, 0.0
    while True:
        await register_sender(ledger, 4)  # as heartbeats do: else the window is that of no sender after a while
        began, cpu_began = time.perf_counter(), time.process_time()
        busy = await rig.round()
        seconds, cpu = seconds + time.perf_counter() - began, cpu + time.process_time() - cpu_began
        if not await _send(sender, rig) and not busy:
            break
    async with ledger.read() as connection:
        closed = await connection.scalar(text("SELECT count(*) FROM campaign WHERE status = 'finished'"))
    assert closed == number
    return {"campaigns": number, "seconds": seconds, "CPU seconds": cpu}


async def sweep(ledger: Ledger, number: int) -> dict[str, float]:
    """Milliseconds of a tick of the sweep, and the ticks of a pass, while so many campaigns are open."""
    await _fill(ledger, number, batches_due_in=3600.0)
    rig = WatchdogRig.on(ledger)
    ticks: list[float] = []
    while not rig.watchdog.sweeping.passes:
        began = time.perf_counter()
        await rig.watchdog.sweep()
        ticks.append(time.perf_counter() - began)
        if rig.watchdog.sweeping.only_looks_again:
            await asyncio.sleep(0.1)
    return {
        "campaigns": number,
        "median tick, ms": statistics.median(ticks) * 1e3,
        "longest tick, ms": max(ticks) * 1e3,
        "ticks": len(ticks),
    }


async def _fill(ledger: Ledger, campaigns: int, batches_due_in: float) -> None:
    """Campaigns in ten projects: half of them being sent, whose two recipients wait for a retry; half paused."""
    projects = [uuid7() for _ in range(10)]
    async with ledger.write() as connection:
        for number, project in enumerate(projects):
            await connection.execute(insert(Project).values(id=project, name=f"bench {number}", created_at=db_now()))
    for first in range(0, campaigns, FILLED_AT_ONCE):
        async with ledger.write() as connection:
            await _add(connection, projects, range(first, min(first + FILLED_AT_ONCE, campaigns)), batches_due_in)
    async with ledger.write() as connection:
        await connection.execute(text("ANALYZE"))


async def _add(connection: AsyncConnection, projects: Sequence[UUID], numbers: range, due_in: float) -> None:
    ids = {number: uuid7() for number in numbers}
    await connection.execute(
        insert(Campaign).values(
            name="bench",
            from_email="news@example.test",
            envelope_from="news@example.test",
            content="{}",
            delivery="at_least_once",
            total=2,
            created_at=db_now(),
            started_at=db_now(),
            deliver_by=db_now() + 86400,
        ),
        [
            {
                "id": id_,
                "project_id": projects[number % 10],
                "status": "sending" if number % 2 else "paused",
                "cursor": 2 * number + 2,
            }
            for number, id_ in ids.items()
        ],
    )
    await connection.execute(
        insert(Recipient).values(status="deferred"),
        [
            {"id": 2 * number + one, "campaign_id": id_, "email": f"r{one}@x.test", "email_key": f"r{one}@x.test"}
            for number, id_ in ids.items()
            for one in (1, 2)
        ],
    )
    await connection.execute(
        insert(Batch).values(size=2, state="waiting", deferred=2, due_at=db_now() + due_in),
        [{"campaign_id": id_, "first_id": 2 * number + 1, "last_id": 2 * number + 2} for number, id_ in ids.items()],
    )


async def _make_due(ledger: Ledger, number: int) -> None:
    """Makes batches of this many campaigns due, paused ones left out, and tells the dispatcher as events do."""
    async with ledger.write() as connection:
        await connection.execute(
            text(
                "UPDATE batch SET due_at = 0 WHERE id IN"
                " (SELECT b.id FROM batch b JOIN campaign c ON c.id = b.campaign_id"
                f" WHERE c.status = 'sending' AND b.state = 'waiting' ORDER BY b.id LIMIT {number})"
            )
        )


async def _timed_rounds(rig: DispatcherRig, sender: FakeSender, releases: int) -> tuple[float, int]:
    """Rounds until so many batches were released, or nothing is left; their seconds, and the batches."""
    async with sender.ledger.read() as connection:
        due = await connection.execute(
            text("SELECT campaign_id FROM batch WHERE state = 'waiting' AND due_at = 0 ORDER BY id")
        )
        names = [UUID(str(one)) for one in due.scalars()]
    for name in names:
        rig.dispatcher.wake(name)
    wanted, seconds, released = min(releases, len(names)), 0.0, 0
    before = rig.value("batches_released_total", kind="again")
    while released < wanted:
        await register_sender(sender.ledger, 5)
        began = time.perf_counter()
        async with rig.dispatcher.open():
            await rig.dispatcher.round("event")
        seconds += time.perf_counter() - began
        released = int(rig.value("batches_released_total", kind="again") - before)
        await _give_back(sender, rig)
    return seconds, max(released, 1)


async def _give_back(sender: FakeSender, rig: DispatcherRig) -> None:
    """What is out waits for a retry again, as after a relay's 4xx."""
    async with sender.ledger.write() as connection:
        out = await connection.execute(
            text(
                "UPDATE batch SET state = 'waiting', due_at = due_at + 1e10 WHERE state = 'released'"
                " RETURNING campaign_id"
            )
        )
        names = [UUID(str(one)) for one in out.scalars()]
    for name in names:
        rig.dispatcher.wake(name)


async def _send(sender: FakeSender, rig: DispatcherRig) -> int:
    async with sender.ledger.read() as connection:
        out = await connection.execute(text("SELECT DISTINCT campaign_id FROM batch WHERE state = 'released'"))
        names = [UUID(str(one)) for one in out.scalars()]
    sent = await sender.send_all_released()
    for name in names:
        rig.dispatcher.wake(name)
    return sent


async def _median_round(rig: DispatcherRig) -> float:
    seconds = []
    for _ in range(20):
        began = time.perf_counter()
        await rig.round()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


async def jobs(ledger: Ledger, number: int) -> dict[str, float]:
    """Seconds from the last result of a campaign of 100 until it is closed, alone and beside long jobs."""
    rig = DispatcherRig.on(ledger)
    long = [await add_campaign(ledger, number, status="paused") for _ in range(LONG_JOBS)]
    running = asyncio.create_task(rig.dispatcher.run())
    alone = await _close_small(ledger, rig)
    async with ledger.write() as connection:
        await connection.execute(
            text("UPDATE campaign SET status = 'stopping', stop_as = 'cancelled' WHERE status = 'paused'")
        )
    began = time.monotonic()
    rig.dispatcher.wake()
    await asyncio.sleep(0.5)
    beside = [await _close_small(ledger, rig) for _ in range(3)]
    for campaign in long:
        while (await campaign_row(ledger, campaign)).status != "cancelled":  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    long_seconds = time.monotonic() - began
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    return {"alone": alone, "beside": max(beside), "long jobs": long_seconds}


async def _close_small(ledger: Ledger, rig: DispatcherRig) -> float:
    campaign = await add_campaign(ledger, 100)
    rig.dispatcher.wake()
    sender = FakeSender(ledger)
    while await sender.send_all_released() < 1:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    began = time.monotonic()
    rig.dispatcher.wake()
    while (await campaign_row(ledger, campaign)).status != "finished":
        await sender.send_all_released()
        rig.dispatcher.wake()
        await asyncio.sleep(0.02)
    return time.monotonic() - began


def _show(title: str, rows: list[dict[str, object]]) -> None:
    table = Table(title=title)
    for heading in rows[0]:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()))
    show_table(table)


if __name__ == "__main__":
    main()

"""Memory of each process as a campaign grows from 10,000 to 1,000,000 recipients: import, dispatch, sending.

The whole system on this machine, as in bench.campaign. The small campaign runs to its end; the large one for at most
`--seconds`, which is enough: what grows with a campaign grows from its first second. Prints a table, writes JSON.
"""

import argparse
import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import psutil
from rich.console import Console
from rich.table import Table

from bench.campaign import HTML, TEXT, folder, ledger_url, private_broker
from bench.reports import write_report
from bench.tables import show_table
from cli.local.broker import PrivateBroker
from cli.local.broker_files import ADMIN, SERVICES
from shared.ledger import migrate
from tests.support.smtp.sink import smtp_sink
from tests.support.system import FINAL, System, installation

SAMPLE_SECONDS = 0.25
LINES_AT_ONCE = 5000
MEGABYTE = 1_000_000
MOST_MEGABYTES = 150
MOST_GROWTH_MEGABYTES = 10
SMALL_SECONDS = 300.0
HELD = ("dispatcher", "sender-1")


@dataclass(frozen=True)
class Step:
    """One campaign. `peak_megabytes` by process, from before its import to its end."""

    recipients: int
    import_seconds: float
    first_email_seconds: float
    sent: int
    seconds: float
    peak_megabytes: dict[str, float]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", type=int, default=10_000)
    parser.add_argument("--large", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=60.0, help="the large campaign is cancelled after so long")
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="postgresql")
    options = parser.parse_args()
    with private_broker() as broker, smtp_sink() as port, folder() as work, ledger_url(options.database, work) as url:
        migrate.upgrade(url)
        small, large = asyncio.run(_both(work, url, broker, f"smtp://127.0.0.1:{port}?tls=none", options))
    return _report(small, large, options)


async def _both(
    work: Path, url: str, broker: PrivateBroker, relay: str, options: argparse.Namespace
) -> tuple[Step, Step]:
    admin, services = broker.amqp_url(ADMIN), broker.amqp_url(SERVICES)
    async with installation(work, url, admin, services, relay=None, relays=relay) as system:
        await system.start(senders=1)
        small = await _campaign(system, options.small, SMALL_SECONDS)
        return small, await _campaign(system, options.large, options.seconds)


async def _campaign(system: System, recipients: int, seconds: float) -> Step:
    async with _peaks(system) as peaks:
        body = {"name": "bench", "from": {"email": "news@example.test"}, "subject": "Hi", "html": HTML, "text": TEXT}
        campaign = (await system.post("/campaigns", body))["id"]
        began = time.monotonic()
        await _import(system, campaign, recipients)
        imported = time.monotonic() - began
        sent_at = time.monotonic()
        await system.send(campaign)
        await system.wait_until(campaign, lambda answer: answer["counts"]["sent"] > 0)
        first = time.monotonic() - sent_at
        while time.monotonic() - sent_at < seconds:
            answer = await system.show(campaign)
            if answer["status"] in FINAL:
                break
            await asyncio.sleep(SAMPLE_SECONDS)
        taken = time.monotonic() - sent_at
        sent = (await system.show(campaign))["counts"]["sent"]
        if sent < recipients:
            await system.post(f"/campaigns/{campaign}/cancel")
    return Step(recipients, round(imported, 1), round(first, 2), sent, round(taken, 1), peaks)


async def _import(system: System, campaign: str, recipients: int) -> None:
    async def lines() -> AsyncIterator[bytes]:
        for start in range(0, recipients, LINES_AT_ONCE):
            numbers = range(start, min(start + LINES_AT_ONCE, recipients))
            yield b"".join(b'{"email":"person-%d@example.test","data":{"name":"N%d"}}\n' % (n, n) for n in numbers)

    async with httpx.AsyncClient(trust_env=False, timeout=600) as client:
        response = await client.post(
            f"{system.processes['api'].http_url}/v1/campaigns/{campaign}/recipients",
            headers={"Authorization": f"Bearer {system.key}", "Content-Type": "application/x-ndjson"},
            content=lines(),
        )
        response.raise_for_status()


@asynccontextmanager
async def _peaks(system: System) -> AsyncIterator[dict[str, float]]:
    """The peak resident memory of each process during the block, in megabytes."""
    processes = {name: psutil.Process(process.pid) for name, process in system.processes.items()}
    peaks = dict.fromkeys(processes, 0.0)

    async def watch() -> None:
        while True:
            for name, process in processes.items():
                peaks[name] = max(peaks[name], round(process.memory_info().rss / MEGABYTE, 1))
            await asyncio.sleep(SAMPLE_SECONDS)

    async with asyncio.TaskGroup() as group:
        watching = group.create_task(watch())
        yield peaks
        watching.cancel()


def _report(small: Step, large: Step, options: argparse.Namespace) -> int:
    console = Console()
    table = Table(title=f"Peak memory, MB, {options.database}")
    for heading in ("process", f"{small.recipients:,}", f"{large.recipients:,}", "growth"):
        table.add_column(heading, justify="right")
    over = []
    for name, before in small.peak_megabytes.items():
        after = large.peak_megabytes[name]
        if name in HELD and (after > MOST_MEGABYTES or after - before > MOST_GROWTH_MEGABYTES):
            over.append(name)
        table.add_row(
            name, f"{before:.0f}", f"{after:.0f}", f"{after - before:+.1f}", style="red" if name in over else ""
        )
    show_table(table, console)
    for step in (small, large):
        console.print(
            f"{step.recipients:,}: imported in {step.import_seconds} s, first email {step.first_email_seconds} s after"
            f" send, {step.sent:,} sent in {step.seconds} s"
        )
    path = write_report("memory", options=vars(options), small=asdict(small), large=asdict(large))
    console.print(f"Report: {path}")
    return 1 if over else 0


if __name__ == "__main__":
    raise SystemExit(main())

"""The throughput of campaigns with a subscriber, beside that without: at least 90 %.

The whole system on this machine, as in `bench.campaign`. The contestants take turns in each round: no subscriber;
events are written and nothing reads them now; a webhook is delivered to meanwhile by the service `webhooks`, which
shares the processors with the senders, as its receiver does. Prints the median of each, its share of the first, and the
CPU time of all services, and writes JSON to var/bench/subscriber.json.
"""

import argparse
import asyncio
import multiprocessing
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.campaign import HTML, TEXT, cpu_seconds, folder, ledger_url, private_broker
from bench.events_out import receive
from bench.reports import write_report
from bench.tables import show_table
from cli.local.broker import PrivateBroker
from cli.local.broker_files import ADMIN, SERVICES
from shared.ledger import migrate
from tests.support.smtp.sink import smtp_sink
from tests.support.system import installation

CONTESTANTS = ("none", "events", "webhook")
LEAST = 0.9
WEBHOOKS = {"webhook_networks": "127.0.0.1/32"}


@dataclass(frozen=True)
class Run:
    """One campaign. From `send` to the last row recorded."""

    emails_per_second: float
    cpu_microseconds_per_email: dict[str, float]

    @property
    def cpu(self) -> float:
        return sum(self.cpu_microseconds_per_email.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipients", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=3, help="rounds; the median counts")
    parser.add_argument("--databases", nargs="+", default=["sqlite", "postgresql"])
    options = parser.parse_args()
    ports: multiprocessing.Queue[int] = multiprocessing.Queue()
    receiver = multiprocessing.Process(target=receive, args=(ports,), daemon=True)
    receiver.start()
    url = f"http://127.0.0.1:{ports.get()}/"
    runs: dict[str, dict[str, list[Run]]] = {
        database: {name: [] for name in CONTESTANTS} for database in options.databases
    }
    with private_broker() as broker, smtp_sink() as port:
        relay = f"smtp://127.0.0.1:{port}?tls=none"
        for _ in range(options.runs):
            for database in options.databases:
                for name in CONTESTANTS:
                    with folder() as work, ledger_url(database, work) as ledger:
                        migrate.upgrade(ledger)
                        subscriber = url if name == "webhook" else name
                        run = asyncio.run(one_run(work, ledger, broker, relay, subscriber, options.recipients))
                    runs[database][name].append(run)
                    print(f"{database}, {name}: {run.emails_per_second:.0f} emails/s", run.cpu_microseconds_per_email)
    receiver.terminate()
    report(runs, options)


async def one_run(work: Path, ledger: str, broker: PrivateBroker, relay: str, subscriber: str, recipients: int) -> Run:
    """`subscriber`: `none`, `events`, or the URL of a webhook."""
    async with installation(
        work, ledger, broker.amqp_url(ADMIN), broker.amqp_url(SERVICES), relay=None, relays=relay, smtp_connections="8"
    ) as system:
        await system.start(1)
        if subscriber == "events":
            async with system.client() as client:
                (await client.put("/events/settings", json={"enabled": True})).raise_for_status()
        elif subscriber != "none":
            system.service_settings["webhooks"] = WEBHOOKS
            await system.launch("webhooks").wait_ready()
            await system.post("/webhooks", {"url": subscriber})
        campaign = await system.create(recipients, html=HTML, text=TEXT)
        before = cpu_seconds(system)
        began = time.monotonic()
        await system.send(campaign)
        await system.wait_until(campaign, lambda answer: answer["counts"]["sent"] == recipients, 300)
        rate = recipients / (time.monotonic() - began)
        cpu = {name: 1e6 * (used - before[name]) / recipients for name, used in cpu_seconds(system).items()}
        return Run(round(rate, 1), {name: round(used, 1) for name, used in cpu.items()})


def report(runs: dict[str, dict[str, list[Run]]], options: argparse.Namespace) -> None:
    headings = ("ledger", "subscriber", "emails/s", "share", "CPU of all services\nus/email")
    table = Table(*headings, title=f"{options.recipients} recipients, 10 KB, median of {options.runs}")
    for database, by_name in runs.items():
        for name, found in by_name.items():
            # Of the runs of one round, whose conditions are most alike.
            pairs = zip(found, by_name["none"], strict=True)
            share = statistics.median(one.emails_per_second / other.emails_per_second for one, other in pairs)
            enough = "" if name == "none" else f"{share:.0%}, at least {LEAST:.0%}: {'yes' if share >= LEAST else 'NO'}"
            rate = statistics.median(run.emails_per_second for run in found)
            table.add_row(database, name, f"{rate:.0f}", enough, f"{statistics.median(run.cpu for run in found):.0f}")
    show_table(table, Console())
    by_database = {
        database: {name: [asdict(run) for run in found] for name, found in by_name.items()}
        for database, by_name in runs.items()
    }
    write_report("subscriber", runs=by_database)


if __name__ == "__main__":
    main()

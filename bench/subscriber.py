"""The throughput of campaigns with a subscriber, beside that without: at least 90 %.

The whole system on this machine, as in `bench.campaign`. The contestants take turns in each round: no subscriber;
events are written and nothing reads them now; a webhook is delivered to meanwhile by the service `webhooks`, which
shares the processors with the senders, as its receiver does. Prints the median of each and its share of the first, and
writes JSON to var/bench/subscriber.json.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.campaign import HTML, REPORTS, TEXT, folder, ledger_url, private_broker
from bench.events_out import receive
from bench.tables import show_table
from cli.local.broker import PrivateBroker
from cli.local.broker_files import ADMIN, SERVICES
from shared.ledger import migrate
from tests.support.smtp.sink import smtp_sink
from tests.support.system import installation

CONTESTANTS = ("none", "events", "webhook")
LEAST = 0.9
WEBHOOKS = {"webhook_networks": "127.0.0.1/32"}


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
    rates: dict[str, dict[str, list[float]]] = {
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
                        rate = asyncio.run(one_run(work, ledger, broker, relay, subscriber, options.recipients))
                    rates[database][name].append(rate)
                    print(f"{database}, {name}: {rate:.0f} emails/s")
    receiver.terminate()
    report(rates, options)


async def one_run(
    work: Path, ledger: str, broker: PrivateBroker, relay: str, subscriber: str, recipients: int
) -> float:
    """Emails a second from `send` to the last row recorded. `subscriber`: `none`, `events`, or the URL of a webhook."""
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
        began = time.monotonic()
        await system.send(campaign)
        await system.wait_until(campaign, lambda answer: answer["counts"]["sent"] == recipients, 300)
        return recipients / (time.monotonic() - began)


def report(rates: dict[str, dict[str, list[float]]], options: argparse.Namespace) -> None:
    table = Table("ledger", "subscriber", "emails/s", "share", title=f"{options.recipients} recipients, 10 KB")
    for database, by_name in rates.items():
        for name, found in by_name.items():
            # Of the runs of one round, whose conditions are most alike.
            share = statistics.median(one / other for one, other in zip(found, by_name["none"], strict=True))
            enough = "" if name == "none" else f"{share:.0%}, at least {LEAST:.0%}: {'yes' if share >= LEAST else 'NO'}"
            table.add_row(database, name, f"{statistics.median(found):.0f}", enough)
    show_table(table, Console())
    REPORTS.mkdir(parents=True, exist_ok=True)
    (REPORTS / "subscriber.json").write_text(json.dumps({"load": os.getloadavg()[0], "rates": rates}, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""Short and long campaigns in turn: emails per second, and the same by the pace of the machine.

`python -m bench.lengths [--recipients 10000 100000] [--rounds 5] [--senders 2]`: the whole system as in bench.campaign,
on PostgreSQL, each campaign in a fresh installation. A round sends each length once, and shorter ones three times,
because their rates differ more. The pace is what the sink takes for an email in the same campaign: where it takes a
tenth longer, so does everything else. Prints a table, writes JSON to var/bench/.
"""

import argparse
import asyncio
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import psutil
from rich.console import Console
from rich.table import Table

from bench.campaign import Run, folder, ledger_url, one_run, private_broker
from bench.reports import write_report
from bench.tables import show_table
from cli.local.broker import PrivateBroker
from shared.ledger import migrate
from tests.support.smtp.sink import smtp_sink_process

TIMES_SHORT = 3


@dataclass(frozen=True)
class Paced:
    """A campaign, and the microseconds of CPU that the sink took for each of its emails."""

    run: Run
    sink_microseconds: float

    @property
    def own_microseconds(self) -> float:
        return sum(self.run.cpu_microseconds_per_email.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipients", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--senders", type=int, default=2)
    parser.add_argument("--connections", type=int, default=8)
    options = parser.parse_args()
    console = Console()
    lengths = sorted(set(options.recipients))
    found: dict[int, list[Paced]] = {length: [] for length in lengths}
    with private_broker() as broker, smtp_sink_process() as (port, sink):
        for _ in range(options.rounds):
            for length in lengths:
                for _ in range(1 if length == lengths[-1] else TIMES_SHORT):
                    found[length].append(_one(broker, port, sink, length, options))
                    console.print(f"{length}: {found[length][-1].run.emails_per_second:.0f} emails/s", style="dim")
    report(console, found, options)


def _one(broker: PrivateBroker, port: int, sink: int, length: int, options: argparse.Namespace) -> Paced:
    relay = f"smtp://127.0.0.1:{port}?tls=none"
    one = argparse.Namespace(recipients=length, senders=options.senders, connections=options.connections)
    with folder() as work, ledger_url("postgresql", work) as url:
        migrate.upgrade(url)
        before = _seconds(sink)
        run = asyncio.run(one_run(work, url, broker, relay, one))
        return Paced(run, round((_seconds(sink) - before) / length * 1e6, 1))


def _seconds(process: int) -> float:
    return sum(psutil.Process(process).cpu_times()[:2])


def report(console: Console, found: Mapping[int, Sequence[Paced]], options: argparse.Namespace) -> None:
    table = Table(title=f"10 KB, {options.senders} sender(s), PostgreSQL; medians")
    for heading in ("recipients", "runs", "emails/s", "of the longest", "by the sink's pace", "own us per email"):
        table.add_column(heading, justify="right")
    rate = {length: statistics.median(one.run.emails_per_second for one in runs) for length, runs in found.items()}
    paced = {
        length: statistics.median(one.run.emails_per_second * one.sink_microseconds for one in runs)
        for length, runs in found.items()
    }
    longest = max(found)
    for length, runs in found.items():
        own = statistics.median(one.own_microseconds for one in runs)
        shares = (f"{rate[length] / rate[longest]:.2f}", f"{paced[length] / paced[longest]:.2f}")
        table.add_row(f"{length:,}", f"{len(runs)}", f"{rate[length]:,.0f}", *shares, f"{own:.0f}")
    show_table(table, console)
    written = {length: [asdict(one) for one in runs] for length, runs in found.items()}
    console.print(f"All runs: {write_report('lengths', options=vars(options), runs=written)}")


if __name__ == "__main__":
    main()

"""Emails per second and CPU per email of the SMTP engine, beside other clients, against Postfix's smtp-sink.

Contestants: the engine with prepared bodies and with rendering, `aiosmtplib.sendmail`, `smtplib` in threads,
Postfix's C client smtp-source, and `bare`: a client that only writes the engine's bytes to plain sockets, which shows
the limit of server and machine at one round trip per email. Each round runs all of them against the same smtp-sink,
so that they share the same conditions; the median round counts. The CPU of the sink is measured as well. Then the
same with two smtp-sinks, through a proxy that adds 20 ms of round trip, and with one hanging email in 500; and the
cost of each part of an email. Prints tables, writes JSON to var/bench/smtp.json. Postfix is fetched once, as a
package, and only unpacked.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import NamedTuple

import psutil
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench import costs, smtp_hang
from bench.reports import write_report
from bench.tables import show_table
from tests.support.smtp.sink import smtp_sink_process, smtp_source, unused_port, wait_for_port

WIDTH = 150
SIZES_KB = (2, 10, 100)
CONNECTIONS = (1, 8, 32)
CONTESTANTS = ("engine", "engine+rendering", "bare", "smtp-source", "aiosmtplib", "smtplib")
WIDE_CONTESTANTS = ("engine", "bare", "aiosmtplib")
WIDE_CONNECTIONS = 8
ROUND_TRIP_SECONDS = 0.020
FAR_CONTESTANTS = ("engine", "aiosmtplib", "smtp-source")
FAR_CONNECTIONS = (1, 8)
FAR_KILOBYTES = 10
FAR_SECONDS = 2.0
FIRST_RUN_EMAILS, FEWEST_PER_CONNECTION = 12, 20
ENGINE = "engine"
SERVER_LIMITS_ABOVE = 0.9  # the sink's share of a core, or the engine's rate over that of `bare`


class Cell(NamedTuple):
    """The parameters of one measurement."""

    contestant: str
    kilobytes: int
    connections: int


class Run(NamedTuple):
    """`server_share`: how much of a core the busiest server used."""

    emails_per_second: float
    cpu_microseconds: float
    server_share: float


@dataclass(frozen=True)
class Measured:
    """Medians over the rounds."""

    contestant: str
    kilobytes: int
    connections: int
    emails_per_run: int
    emails_per_second: float
    cpu_microseconds: float
    server_share: float


class Servers(NamedTuple):
    """The servers: `ports` share the connections, and `sinks` are the pids of their processes."""

    ports: Sequence[int]
    sinks: Sequence[int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.5, help="about how long a contestant runs each time")
    parser.add_argument("--quick", action="store_true", help="10 KB and 8 connections only, without hanging and costs")
    options = parser.parse_args()
    sizes, connections = ((10,), (8,)) if options.quick else (SIZES_KB, CONNECTIONS)
    near_cells = [Cell(who, size, many) for size in sizes for many in connections for who in CONTESTANTS]
    wide_cells = [Cell(who, size, WIDE_CONNECTIONS) for size in sizes for who in WIDE_CONTESTANTS]
    far_cells = [Cell(who, FAR_KILOBYTES, many) for many in FAR_CONNECTIONS for who in FAR_CONTESTANTS]
    with (
        smtp_sink_process() as (port, sink),
        smtp_sink_process() as (second_port, second_sink),
        delay(port, ROUND_TRIP_SECONDS) as far_port,
        Progress(transient=True) as progress,
    ):
        near = measure(near_cells, Servers([port], [sink]), options.rounds, options.seconds, progress)
        both = Servers([port, second_port], [sink, second_sink])
        wide = measure(wide_cells, both, options.rounds, options.seconds, progress)
        far = measure(far_cells, Servers([far_port], [sink]), options.rounds, FAR_SECONDS, progress)
    report: dict[str, object] = {
        "near": [asdict(cell) for cell in near],
        "two_servers": [asdict(cell) for cell in wide],
        "round_trip_seconds": ROUND_TRIP_SECONDS,
        "far": [asdict(cell) for cell in far],
    }
    console = Console(width=WIDTH)
    show(console, near, wide, far)
    if not options.quick:
        hanging = smtp_hang.measure(options.rounds)
        smtp_hang.show(console, hanging)
        cost = costs.measure(options.rounds)
        costs.show(console, cost)
        report |= {"hanging": asdict(hanging), "costs": cost}
    write_report("smtp", **report)


def measure(cells: list[Cell], servers: Servers, rounds: int, seconds: float, progress: Progress) -> list[Measured]:
    """Medians per cell. A first run warms up and finds the number of emails that fill `seconds`."""
    counts: dict[Cell, int] = {}
    runs: dict[Cell, list[Run]] = {cell: [] for cell in cells}
    bar = progress.add_task("runs", total=len(cells) * (rounds + 1))
    for cell in cells:
        rate = run_once(cell, servers, FIRST_RUN_EMAILS * cell.connections).emails_per_second
        counts[cell] = max(FEWEST_PER_CONNECTION * cell.connections, round(rate * seconds))
        progress.advance(bar)
    for _ in range(rounds):
        for cell in cells:
            runs[cell].append(run_once(cell, servers, counts[cell]))
            progress.advance(bar)
    return [
        Measured(*cell, counts[cell], *(round(statistics.median(of), 3) for of in zip(*runs[cell], strict=True)))
        for cell in cells
    ]


def run_once(cell: Cell, servers: Servers, emails: int) -> Run:
    """Runs one contestant."""
    used = [cpu_seconds_of(sink) for sink in servers.sinks]
    if cell.contestant == "smtp-source":
        begun, cpu = time.perf_counter(), cpu_of_children()
        smtp_source(servers.ports[0], sessions=cell.connections, emails=emails, size=cell.kilobytes * 1024)
        seconds, cpu_seconds = time.perf_counter() - begun, cpu_of_children() - cpu
    else:
        flags = {"emails": emails, "connections": cell.connections, "kilobytes": cell.kilobytes}
        words = [f"--{name}={value}" for name, value in flags.items()] + [f"--port={port}" for port in servers.ports]
        command = [sys.executable, "-m", "bench.smtp_clients", cell.contestant, *words]
        took = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        seconds, cpu_seconds = took["seconds"], took["cpu_seconds"]
    busy = max(cpu_seconds_of(sink) - before for sink, before in zip(servers.sinks, used, strict=True))
    return Run(emails / seconds, cpu_seconds / emails * 1e6, busy / seconds)


def cpu_seconds_of(pid: int) -> float:
    used = psutil.Process(pid).cpu_times()
    return float(used.user + used.system)


def cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextmanager
def delay(target: int, round_trip: float) -> Iterator[int]:
    """The port of a proxy in front of `target`."""
    port = unused_port()
    process = subprocess.Popen([sys.executable, "-m", "bench.delay", str(port), str(target), str(round_trip)])
    try:
        wait_for_port(port, process)
        yield port
    finally:
        process.kill()
        process.wait()


def show(console: Console, near: list[Measured], wide: list[Measured], far: list[Measured]) -> None:
    what = "Emails per second (microseconds of CPU per email, the server's share of a core)"
    show_table(table(what, near, lambda cell: cell.emails_per_second), console)
    show_table(table("The same with two smtp-sinks", wide, lambda cell: cell.emails_per_second), console)
    title = f"Emails per second and connection, {ROUND_TRIP_SECONDS * 1000:.0f} ms away"
    show_table(table(title, far, lambda cell: cell.emails_per_second / cell.connections), console)
    console.print(verdict("near", near, "smtp-source", 1.0))
    console.print(verdict("near", near, "aiosmtplib", 5.0))
    console.print(verdict("two smtp-sinks", wide, "aiosmtplib", 5.0))
    console.print(verdict("far", far, "aiosmtplib", 3.5))


def verdict(place: str, cells: list[Measured], other: str, least: float) -> str:
    """Whether the engine sends `least` times as many emails as `other`, except where the server is the limit.

    The server is the limit if the sink uses a whole core, or if the engine is as fast as the bare client: no client
    with one round trip per email can be faster."""
    by_cell = {Cell(cell.contestant, cell.kilobytes, cell.connections): cell for cell in cells}
    ratios: list[float] = []
    short: list[str] = []
    limited: list[str] = []
    for cell in cells:
        if cell.contestant != ENGINE:
            continue
        peer, floor = (by_cell.get(Cell(who, cell.kilobytes, cell.connections)) for who in (other, "bare"))
        assert peer is not None
        ratio = cell.emails_per_second / peer.emails_per_second
        ratios.append(ratio)
        of_bare = cell.emails_per_second / floor.emails_per_second if floor else 0.0
        if ratio < least:
            at_limit = max(cell.server_share, of_bare) >= SERVER_LIMITS_ABOVE
            (limited if at_limit else short).append(
                f"{cell.kilobytes} KB, {cell.connections} connections: {ratio:.1f} times, the server's share is "
                f"{cell.server_share:.0%}, the bare client's rate reached to {of_bare:.0%}"
            )
    reached = "NOT reached" if short else "reached, but for where the server is the limit" if limited else "reached"
    line = (
        f"{place}: {min(ratios):.1f} to {max(ratios):.1f} times {other} (median {statistics.median(ratios):.1f}); "
        f"target at least {least:g}: {reached}"
    )
    return "\n  ".join(
        [line, *(f"server's limit: {words}" for words in limited), *(f"short: {words}" for words in short)]
    )


def table(title: str, cells: list[Measured], shown: Callable[[Measured], float]) -> Table:
    """A row per size and number of connections, a column per contestant."""
    contestants = list(dict.fromkeys(cell.contestant for cell in cells))
    grid = Table(title=title)
    for heading in ("KB", "connections", *contestants):
        grid.add_column(heading, justify="right", no_wrap=True)
    for size, many in dict.fromkeys((cell.kilobytes, cell.connections) for cell in cells):
        row = [cell for cell in cells if (cell.kilobytes, cell.connections) == (size, many)]
        figures = [f"{shown(cell):,.0f} ({cell.cpu_microseconds:,.0f}, {cell.server_share:.0%})" for cell in row]
        grid.add_row(str(size), str(many), *figures)
    return grid


if __name__ == "__main__":
    main()

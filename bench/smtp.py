"""Emails per second and CPU per email of the SMTP engine, beside other clients, against Postfix's smtp-sink.

Contestants: the engine with bodies made beforehand and with rendering, `aiosmtplib.sendmail`, `smtplib` in threads, and
Postfix's C client smtp-source. All take turns within each round, against the same smtp-sink, so that the machine's mood
is the same for all; the median round counts. Then the same through a proxy that adds 20 ms of round trip.
Prints tables, writes JSON to var/bench/smtp.json. Postfix is fetched once, as a package, and only unpacked.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from tests.support.smtp.sink import smtp_sink, smtp_source, unused_port, wait_for_port

REPORT = Path("var/bench/smtp.json")
SIZES_KB = (2, 10, 100)
CONNECTIONS = (1, 8, 32)
CONTESTANTS = ("engine", "engine+rendering", "smtp-source", "aiosmtplib", "smtplib")
ROUND_TRIP_SECONDS = 0.020
FAR_CONTESTANTS = ("engine", "aiosmtplib", "smtp-source")
FAR_CONNECTIONS = (1, 8)
FAR_KILOBYTES = 10
FAR_SECONDS = 2.0
FIRST_TURN_EMAILS, FEWEST_PER_CONNECTION = 12, 20
TARGETS = (("smtp-source", 1.0), ("aiosmtplib", 5.0))  # times as many emails as these, at the least, everywhere
FAR_TARGETS = (("aiosmtplib", 3.5),)
ENGINE = "engine"


class Cell(NamedTuple):
    """What is measured."""

    contestant: str
    kilobytes: int
    connections: int


@dataclass(frozen=True)
class Measured:
    """Medians over the rounds."""

    contestant: str
    kilobytes: int
    connections: int
    emails_per_turn: int
    emails_per_second: float
    cpu_microseconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.5, help="about how long a contestant runs in each turn")
    parser.add_argument("--quick", action="store_true", help="10 KB and 8 connections only")
    options = parser.parse_args()
    sizes, connections = ((10,), (8,)) if options.quick else (SIZES_KB, CONNECTIONS)
    near_cells = [Cell(who, size, many) for size in sizes for many in connections for who in CONTESTANTS]
    far_cells = [Cell(who, FAR_KILOBYTES, many) for many in FAR_CONNECTIONS for who in FAR_CONTESTANTS]
    with smtp_sink() as port, delay(port, ROUND_TRIP_SECONDS) as far_port, Progress(transient=True) as progress:
        near = measure(near_cells, port, options.rounds, options.seconds, progress)
        far = measure(far_cells, far_port, options.rounds, FAR_SECONDS, progress)
    report = {
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "load": os.getloadavg()[0]},
        "near": [asdict(cell) for cell in near],
        "round_trip_seconds": ROUND_TRIP_SECONDS,
        "far": [asdict(cell) for cell in far],
    }
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps(report, indent=2) + "\n")
    show(near, far)


def measure(cells: list[Cell], port: int, rounds: int, seconds: float, progress: Progress) -> list[Measured]:
    """Medians per cell. A first turn finds out how many emails fill `seconds`, and warms up."""
    counts: dict[Cell, int] = {}
    turns: dict[Cell, list[tuple[float, float]]] = {cell: [] for cell in cells}
    bar = progress.add_task("turns", total=len(cells) * (rounds + 1))
    for cell in cells:
        rate, _ = turn(cell, port, FIRST_TURN_EMAILS * cell.connections)
        counts[cell] = max(FEWEST_PER_CONNECTION * cell.connections, round(rate * seconds))
        progress.advance(bar)
    for _ in range(rounds):
        for cell in cells:
            turns[cell].append(turn(cell, port, counts[cell]))
            progress.advance(bar)
    return [
        Measured(
            *cell,
            emails_per_turn=counts[cell],
            emails_per_second=round(statistics.median(rate for rate, _ in turns[cell]), 1),
            cpu_microseconds=round(statistics.median(cpu for _, cpu in turns[cell]), 1),
        )
        for cell in cells
    ]


def turn(cell: Cell, port: int, emails: int) -> tuple[float, float]:
    """Emails per second, and microseconds of CPU per email."""
    if cell.contestant == "smtp-source":
        begun, cpu = time.perf_counter(), cpu_of_children()
        smtp_source(port, sessions=cell.connections, emails=emails, size=cell.kilobytes * 1024)
        seconds, cpu_seconds = time.perf_counter() - begun, cpu_of_children() - cpu
    else:
        flags = {"port": port, "emails": emails, "connections": cell.connections, "kilobytes": cell.kilobytes}
        words = [f"--{name}={value}" for name, value in flags.items()]
        command = [sys.executable, "-m", "bench.smtp_clients", cell.contestant, *words]
        took = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        seconds, cpu_seconds = took["seconds"], took["cpu_seconds"]
    return emails / seconds, cpu_seconds / emails * 1e6


def cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextmanager
def delay(target: int, round_trip: float) -> Iterator[int]:
    """The port of a proxy in front of `target`."""
    port = unused_port()
    process = subprocess.Popen([sys.executable, "-m", "bench.smtp_delay", str(port), str(target), str(round_trip)])
    try:
        wait_for_port(port, process)
        yield port
    finally:
        process.kill()
        process.wait()


def show(near: list[Measured], far: list[Measured]) -> None:
    console = Console()
    console.print(
        table("Emails per second, and microseconds of CPU per email", near, lambda cell: cell.emails_per_second)
    )
    title = f"Emails per second and connection, {ROUND_TRIP_SECONDS * 1000:.0f} ms away"
    console.print(table(title, far, lambda cell: cell.emails_per_second / cell.connections))
    for place, cells, targets in (("near", near, TARGETS), ("far", far, FAR_TARGETS)):
        for other, least in targets:
            ratios = sorted(times(cells, other))
            verdict = "reached" if ratios[0] >= least else "NOT reached everywhere"
            console.print(
                f"{place}: {ratios[0]:.1f} to {ratios[-1]:.1f} times {other} (median {statistics.median(ratios):.1f}); "
                f"target at least {least:g}: {verdict}"
            )


def times(cells: list[Measured], other: str) -> list[float]:
    """The engine's rate over another contestant's, for every size and number of connections."""
    rates = {(cell.contestant, cell.kilobytes, cell.connections): cell.emails_per_second for cell in cells}
    return [rate / rates[other, size, many] for (who, size, many), rate in rates.items() if who == ENGINE]


def table(title: str, cells: list[Measured], shown: Callable[[Measured], float]) -> Table:
    """A row per size and number of connections, a column per contestant."""
    contestants = list(dict.fromkeys(cell.contestant for cell in cells))
    grid = Table(title=title)
    for heading in ("KB", "connections", *contestants):
        grid.add_column(heading, justify="right")
    for size, many in dict.fromkeys((cell.kilobytes, cell.connections) for cell in cells):
        row = [cell for cell in cells if (cell.kilobytes, cell.connections) == (size, many)]
        figures = [f"{shown(cell):,.0f} ({cell.cpu_microseconds:,.0f})" for cell in row]
        grid.add_row(str(size), str(many), *figures)
    return grid


if __name__ == "__main__":
    main()

"""Reports the outcomes: a table on the terminal, JSON, and the same table in docs/guarantees.md."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from tests.chaos.catalogue import Fault
from tests.chaos.verdict import Outcome

ROOT = Path(__file__).parents[2]
REPORT = ROOT / "var" / "bench" / "chaos.json"
PAGE = ROOT / "docs" / "guarantees.md"
BEGIN, END = "<!-- chaos: written by make chaos -->", "<!-- chaos: end -->"
HEADINGS = ("fault", "ledger", "runs", "lost", "duplicated", "allowed", "recovery s", "reclaimed s")


@dataclass(frozen=True)
class Row:
    """All runs of one fault on one ledger: the worst value of each column."""

    title: str
    ledger: str
    runs: int
    lost: int
    duplicated: int
    allowed_duplicates: int
    recovery_seconds: float | None
    reclaimed_seconds: float | None
    broken: bool

    def cells(self) -> tuple[str, ...]:
        numbers = (self.runs, self.lost, self.duplicated, self.allowed_duplicates)
        seconds = (self.recovery_seconds, self.reclaimed_seconds)
        return (
            self.title,
            self.ledger,
            *(str(number) for number in numbers),
            *("" if value is None else f"{value:.1f}" for value in seconds),
        )


def rows(catalogue: Mapping[str, Fault], outcomes: Sequence[Outcome]) -> list[Row]:
    """One row per fault and ledger, in the order of the catalogue."""
    found = []
    for fault in catalogue.values():
        for ledger in fault.ledgers:
            runs = [outcome for outcome in outcomes if (outcome.fault, outcome.ledger) == (fault.name, ledger)]
            if runs:
                worst = max(runs, key=lambda outcome: outcome.duplicated - outcome.allowed_duplicates)
                found.append(
                    Row(
                        fault.title,
                        ledger,
                        len(runs),
                        sum(outcome.lost for outcome in runs),
                        worst.duplicated,
                        worst.allowed_duplicates,
                        _most(outcome.recovery_seconds for outcome in runs),
                        _most(outcome.reclaimed_seconds for outcome in runs),
                        any(outcome.problems for outcome in runs),
                    )
                )
    return found


def table(catalogue: Mapping[str, Fault], outcomes: Sequence[Outcome]) -> Table:
    drawn = Table(title="Chaos: worst of all runs")
    for number, heading in enumerate(HEADINGS):
        drawn.add_column(heading, justify="left" if number < 2 else "right")
    for row in rows(catalogue, outcomes):
        drawn.add_row(*row.cells(), style="red" if row.broken else None)
    return drawn


def line(outcome: Outcome) -> str:
    """One outcome as one line of text."""
    recovery = "" if outcome.recovery_seconds is None else f", at full speed after {outcome.recovery_seconds:.1f} s"
    again = "" if outcome.reclaimed_seconds is None else f", batches reclaimed after {outcome.reclaimed_seconds:.1f} s"
    return (
        f"{'BROKEN' if outcome.problems else 'held':6} {outcome.fault} on {outcome.ledger}: {outcome.recipients}"
        f" recipients, lost {outcome.lost}, duplicated {outcome.duplicated}"
        f" of {outcome.allowed_duplicates} allowed{recovery}{again}"
        f" ({outcome.seconds:.0f} s, seed {outcome.seed})"
    )


def read(paths: Sequence[Path]) -> list[Outcome]:
    """The outcomes in earlier reports."""
    found: list[Outcome] = []
    for path in paths:
        found = merged(found, [Outcome(**outcome) for outcome in json.loads(path.read_text())["outcomes"]])
    return found


def merged(earlier: Sequence[Outcome], later: Sequence[Outcome]) -> list[Outcome]:
    """All outcomes; a later run of the same fault, ledger and seed replaces the earlier one."""
    return list({(outcome.fault, outcome.ledger, outcome.seed): outcome for outcome in (*earlier, *later)}.values())


def write(outcomes: Sequence[Outcome], path: Path) -> None:
    """Writes the outcomes and the machine as JSON."""
    machine = {
        "cpus": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine, "outcomes": [asdict(outcome) for outcome in outcomes]}
    path.write_text(json.dumps(content, indent=2) + "\n")


def write_page(catalogue: Mapping[str, Fault], outcomes: Sequence[Outcome]) -> None:
    """Renews the table in docs/guarantees.md; faults without an outcome keep the rows they have there."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    old, _, after = rest.partition(END)
    known = {cells[:2]: cells for cells in map(_cells, old.splitlines()) if len(cells) == len(HEADINGS)}
    known |= {(row.title, row.ledger): row.cells() for row in rows(catalogue, outcomes)}
    ordered = [(fault.title, ledger) for fault in catalogue.values() for ledger in fault.ledgers]
    table = markdown([known[key] for key in ordered if key in known])
    PAGE.write_text(f"{before}{BEGIN}\n{table}{END}{after}")


def _cells(line: str) -> tuple[str, ...]:
    return tuple(cell.strip() for cell in line.strip("|").split("|"))


def markdown(found: Sequence[tuple[str, ...]]) -> str:
    lines = [HEADINGS, ("---", "---", *["---:"] * (len(HEADINGS) - 2)), *found]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _most(values: Any) -> float | None:
    return max((value for value in values if value is not None), default=None)

"""The command's output: data on stdout, messages on stderr, tables for people, JSON for scripts."""

import json
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

import typer

from cli.visible import visible, visible_in_a_line, visible_json
from shared.errors import VashSenderError

if TYPE_CHECKING:
    from rich.console import Console

BETWEEN_COLUMNS = 2
BOLD, PLAIN = "\x1b[1m", "\x1b[0m"


@cache
def out() -> "Console":
    """Standard output in colour. Respects NO_COLOR, and detects a terminal by itself."""
    from rich.console import Console  # takes time to load, and most verbs do without

    return Console(highlight=False, soft_wrap=True)


@cache
def err() -> "Console":
    """The same for standard error."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def show_text(text: str) -> None:
    """Text of any length on stdout, as it is but for what a terminal would obey."""
    sys.stdout.write(visible(text) + "\n")


def show_json(value: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(visible_json(json.dumps(value, indent=2, ensure_ascii=False, default=str)) + "\n")


def show_list(found: Any, columns: Sequence[str], rows: Iterable[Sequence[object]], as_json: bool) -> None:
    """What a verb has found: as JSON, or its `rows` as a table."""
    if as_json:
        show_json(found)
    else:
        show_table(columns, list(rows))


def show_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on stdout; without a terminal, tab-separated lines, the headings first. Columns without headings, such as
    names and values, have no such line."""
    headed = any(columns)
    lines = [[_cell(value) for value in row] for row in ([columns] if headed else []) + list(rows)]
    if not (sys.stdout.isatty() or os.environ.get("FORCE_COLOR")):
        sys.stdout.writelines("\t".join(line) + "\n" for line in lines)
        return
    if (aligned := _aligned(lines, shutil.get_terminal_size().columns)) is not None:
        if headed and os.environ.get("TERM", "dumb") != "dumb":
            aligned[0] = f"{BOLD}{aligned[0]}{PLAIN}"
        sys.stdout.writelines(line + "\n" for line in aligned)
        return
    from rich.table import Table  # folds what is too wide, and knows how wide letters are
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", show_header=headed)
    for column in columns:
        table.add_column(column, overflow="fold")
    for line in lines[1:] if headed else lines:
        table.add_row(*(Text(cell) for cell in line))  # plain: a name may look like markup
    out().print(table)


def _aligned(lines: Sequence[Sequence[str]], columns: int) -> list[str] | None:
    """Lines of a table whose letters all have the same width; None if they have not, or need more than `columns`."""
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    too_wide = sum(widths) + BETWEEN_COLUMNS * (len(widths) - 1) > columns
    if too_wide or not all(cell.isascii() for line in lines for cell in line):
        return None
    between = " " * BETWEEN_COLUMNS
    return [between.join(map(str.ljust, line, widths)).rstrip() for line in lines]


def say(text: str) -> None:
    """A message for people, on stderr."""
    sys.stderr.write(visible(text) + "\n")


def moment(seconds: float | None) -> str:
    """A ledger time in this machine's time zone; a dash for None."""
    return "-" if seconds is None else datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def duration(seconds: float) -> str:
    """Seconds in words, such as `1 d 3 h` or `4 min 10 s`."""
    whole = round(seconds)
    days, hours, minutes, rest = whole // 86_400, whole // 3600 % 24, whole // 60 % 60, whole % 60
    parts = [f"{value} {unit}" for value, unit in ((days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")) if value]
    return " ".join(parts[:2]) or "0 s"


def confirm(question: str, yes: bool) -> None:
    """Asks before something is destroyed. Raises UsageError (exit code 64) without --yes and without a terminal."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"{question} Pass --yes: there is no terminal to ask on.")
    typer.confirm(question, abort=True, err=True)


class UsageError(VashSenderError):
    """The command was called wrongly."""

    exit_code = 64


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:g}" if isinstance(value, float) else visible_in_a_line(str(value))


class Step:
    """One step of a longer command."""

    def __init__(self) -> None:
        #: What to print about it.
        self.note = "done"


@contextmanager
def step(name: str) -> Iterator[Step]:
    """Prints a step on stderr with its result and duration."""
    began = time.monotonic()
    current = Step()
    try:
        yield current
    except BaseException:
        current.note = "failed"
        raise
    finally:
        say(f"  {name:<18} {current.note} ({time.monotonic() - began:.1f} s)")

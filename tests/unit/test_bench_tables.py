"""Tables of benchmarks: their headings are whole in a file, a pipe and on a narrow terminal."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from bench import tables
from bench.tables import show_table


@pytest.mark.parametrize("is_terminal", [True, False])
def test_headings_are_not_cut(is_terminal: bool) -> None:
    written = io.StringIO()
    table = Table(title="10 KB")
    for number in range(12):
        table.add_column(f"sender-{number}\nus/email")
    table.add_row(*["123"] * 12)
    show_table(table, Console(file=written, width=80, force_terminal=is_terminal))
    shown = written.getvalue()
    assert "…" not in shown
    if not is_terminal:
        assert shown.count("us/email") == 12


def test_every_benchmark_prints_its_tables_so() -> None:
    programs = {path.name: path.read_text() for path in Path(tables.__file__).parent.glob("*.py")}
    with_tables = {name for name, text in programs.items() if re.search(r"\bTable\(", text)}
    assert with_tables, "no benchmark was found"
    assert {name for name in with_tables if "show_table(" not in programs[name]} == set()

"""Tables on a terminal: those that fit are written without rich, and look as rich would write them."""

from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table
from rich.text import Text

import cli.output
from cli.output import _aligned, show_table

WIDE = 200
cells = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=9)
tables = st.integers(1, 5).flatmap(
    lambda width: st.lists(st.lists(cells, min_size=width, max_size=width), min_size=1, max_size=4)
)


def as_rich_writes(lines: list[list[str]]) -> list[str]:
    """The first line as headings, without colours."""
    table = Table(box=None, pad_edge=False)
    for heading in lines[0]:
        table.add_column(Text(heading))
    for line in lines[1:]:
        table.add_row(*map(Text, line))
    written = StringIO()
    Console(file=written, width=WIDE, color_system=None).print(table)
    return [line.rstrip() for line in written.getvalue().splitlines()]


@given(tables)
def test_it_looks_as_rich_writes_it(lines: list[list[str]]) -> None:
    assert _aligned(lines, WIDE) == as_rich_writes(lines)


def test_what_does_not_fit_or_has_letters_of_other_widths_is_left_to_rich() -> None:
    assert _aligned([["a", "b"], ["four", "five5"]], 11) == ["a     b", "four  five5"]
    assert _aligned([["a", "b"], ["four", "five5"]], 10) is None
    assert _aligned([["東京"]], 80) is None


@pytest.mark.parametrize(("terminal", "heading"), [("xterm", "\x1b[1mId  Name\x1b[0m"), ("dumb", "Id  Name")])
def test_headings_are_bold_where_the_terminal_can_show_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], terminal: str, heading: str
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", terminal)
    show_table(("Id", "Name"), [("1", "Ann")])
    assert capsys.readouterr().out == f"{heading}\n1   Ann\n"


def test_a_table_without_rows_has_its_headings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    show_table(("Id", "Name"), [])
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    show_table(("Id", "Name"), [])
    show_table(("", ""), [])
    assert capsys.readouterr().out == "Id\tName\nId  Name\n"


def test_wide_letters_are_aligned_by_rich(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "80")
    cli.output.out.cache_clear()
    show_table(("City", "Sent"), [("東京", "1"), ("Łódź", "22")])
    cli.output.out.cache_clear()
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == ["City  Sent", "東京  1", "Łódź  22"]

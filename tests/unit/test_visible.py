"""Text from outside on a terminal: markup, escapes, line breaks and signs of direction do nothing."""

import json

import pytest
from rich.console import Console

import cli.local.log_files
import cli.output
from cli.visible import visible, visible_in_a_line
from cli.watching import Look, follow

EVIL = "[/x] [bold]b[/bold] \x1b[31mred\x9b0m\x07\r\u202egpj.exe\u2066\u200f"
SHOWN = r"[/x] [bold]b[/bold] \x1b[31mred\x9b0m\x07\r\u202egpj.exe\u2066\u200f"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Console:
    """Both outputs on a wide terminal."""
    console = Console(force_terminal=True, width=200, highlight=False, soft_wrap=True, record=True, color_system=None)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(cli.output, "out", lambda: console)
    monkeypatch.setattr("cli.watching.err", lambda: console)
    monkeypatch.setattr(cli.local.log_files, "out", lambda: console)
    return console


def test_what_a_terminal_obeys_is_written_out() -> None:
    assert visible(EVIL) == SHOWN
    assert visible("two\nlines\tapart") == "two\nlines\tapart"
    assert visible_in_a_line("two\nlines\tapart") == r"two\nlines\tapart"
    assert visible("Łódź, 東京, שלום, 👩‍🚀") == "Łódź, 東京, שלום, 👩‍🚀"
    assert visible("half \ud800") == r"half \ud800"


@pytest.mark.parametrize("columns", ["20", "200"])
def test_a_table_shows_names_as_they_are(
    terminal: Console, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)  # the narrow one takes another way
    cli.output.show_table(("Id", "Name"), [("1", f"{EVIL}\nsecond")])
    assert f"{SHOWN}\\nsecond" in capsys.readouterr().out


def test_without_a_terminal_a_name_is_one_cell(capsys: pytest.CaptureFixture[str]) -> None:
    cli.output.show_table(("Id", "Name"), [("1", f"{EVIL}\ta\nb")])
    assert capsys.readouterr().out == f"Id\tName\n1\t{SHOWN}\\ta\\nb\n"


def test_messages_and_json_show_it_too(terminal: Console, capsys: pytest.CaptureFixture[str]) -> None:
    cli.output.say(EVIL)
    cli.output.show_text(EVIL)
    told = capsys.readouterr()
    assert (told.err, told.out) == (f"{SHOWN}\n", f"{SHOWN}\n")
    cli.output.show_json({"name": EVIL})
    written = capsys.readouterr().out
    assert json.loads(written) == {"name": EVIL}
    assert written.replace("\n", "").isprintable()


def test_a_log_line_shows_it(terminal: Console, capsys: pytest.CaptureFixture[str]) -> None:
    entry = {"timestamp": "2026-01-01T00:00:00Z", "level": "info", "instance": "a", "event": "e", "reply": EVIL}
    cli.local.log_files._readable(json.dumps(entry))
    told = capsys.readouterr()
    assert SHOWN in told.out + told.err


@pytest.mark.parametrize("is_terminal", [True, False])
def test_watching_a_campaign_with_such_a_reason(
    terminal: Console, capsys: pytest.CaptureFixture[str], is_terminal: bool
) -> None:
    terminal._force_terminal = is_terminal
    counts = {"total": 1, "pending": 0, "deferred": 0, "sent": 0, "failed": 1}
    campaign = {"status": "finished", "counts": counts, "rescued": 0, "blocked_by": None, "reason": EVIL}
    assert follow(iter([Look(campaign, 0.0, None)])).is_final
    told = capsys.readouterr()
    assert SHOWN in told.out + told.err

"""Writes docs/replies.md from the table of refusals: `python -m scripts.replies_page`. A test keeps it so."""

from pathlib import Path

from shared.faults import words
from shared.faults.table import ANY, DIALOGUE, ENTRY, MAIL, MESSAGE, NAMED, RCPT, REPORT, TABLE, Row

FOLDER = Path(__file__).parents[1] / "docs"
PAGE = FOLDER / "replies.md"
HEAD = FOLDER / "replies.head.md"

STAGES = {
    ENTRY: "before MAIL",
    MAIL: "MAIL",
    REPORT: "report",
    NAMED: "RCPT to dot, report",
    MAIL | NAMED: "MAIL to dot, report",
    DIALOGUE: "MAIL to dot",
    MAIL | MESSAGE: "MAIL, DATA to dot",
    RCPT | MESSAGE: "RCPT to dot",
    MESSAGE: "DATA to dot",
    RCPT | REPORT: "RCPT, report",
    ANY: "anywhere",
}
NAMES = {value: name for name, value in vars(words).items() if isinstance(value, tuple)}


def page() -> str:
    """The whole of docs/replies.md."""
    lines = [
        "| where | code | enhanced code | words | fault | consequence | because |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += map(_line, TABLE)
    return HEAD.read_text(encoding="utf-8") + "\n## The table\n\n" + "\n".join(lines) + "\n"


def _line(row: Row) -> str:
    mark = "⁺" if row.suspect_provider else ""
    cells = (STAGES[row.stages], row.code, row.enhanced, _words(row.words), row.consequence.fault)
    return f"| {' | '.join(cells)} | `{row.consequence}`{mark} | {row.why} |"


def _words(phrases: words.Words) -> str:
    if not phrases or phrases in NAMES:
        return f"`{NAMES[phrases]}`" if phrases else ""
    named = [name for value, name in NAMES.items() if set(value) <= set(phrases)]
    if sum(len(vars(words)[name]) for name in named) == len(phrases):
        return ", ".join(f"`{name}`" for name in named)
    return ", ".join(f'"{phrase}"' for phrase in phrases)


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()

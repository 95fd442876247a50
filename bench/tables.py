"""The benchmarks' output: tables whose headings are whole wherever they go."""

from rich.console import Console
from rich.table import Table

WIDEST = 10_000


def show_table(table: Table, console: Console | None = None) -> None:
    """Prints a table. A file or a pipe has no width, so the table gets as much as it needs; on a narrow terminal, long
    headings continue on the next line."""
    console = console or Console()
    for column in table.columns:
        column.overflow = "fold"
    if not console.is_terminal:
        needed = console.measure(table, options=console.options.update(width=WIDEST)).maximum
        console = Console(file=console.file, width=max(needed, console.width))
    console.print(table)

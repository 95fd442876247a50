"""Shows all processes live, and restarts supervisord if it died. Ctrl-C ends only the display."""

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cli.local import LocalError
from cli.local.control import control
from cli.local.installation import Installation
from cli.local.processes import ProcessUse, processes
from cli.output import duration, out, say

LOOK_SECONDS = 1.0
NEWS_KEPT = 8
STYLES = {"running": "green", "starting": "yellow", "stopping": "yellow"}


def monitor(installation: Installation) -> None:
    """Watches until Ctrl-C: with a table on a terminal, otherwise with one line per change."""
    watch = _Watch(installation)
    if not out().is_terminal:
        while True:
            for line in watch.look():
                say(line)
    with Live(console=out(), auto_refresh=False) as live:
        while True:
            watch.look()
            live.update(watch.table(), refresh=True)


class _Watch:
    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._known: dict[str, tuple[str, int]] = {}
        self._uses: Sequence[ProcessUse] = ()
        self._news: list[str] = []

    def look(self) -> list[str]:
        """Looks once, which takes a second, and returns what has changed, in words."""
        news = []
        try:
            states = self._installation.states()
        except LocalError:
            with control(self._installation.config, "monitor: supervisord was gone"):
                self._installation.revive()
            news.append("supervisord was gone: restarted; it adopted the programs that were still running")
            states = self._installation.states()
        self._uses = processes(states, LOOK_SECONDS)
        now = {use.name: (use.state, use.pid) for use in self._uses}
        for name in sorted({*now, *self._known}):
            if now.get(name) != self._known.get(name):
                state, pid = now.get(name, ("removed", 0))
                news.append(f"{name}: {state}" + (f", pid {pid}" if pid else ""))
        self._known = now
        lines = [f"{time.strftime('%H:%M:%S')} {text}" for text in news]
        self._news = [*self._news, *lines][-NEWS_KEPT:]
        return lines

    def table(self) -> Group:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("Process", "State", "Pid", "Uptime", "Restarts", "CPU %", "Memory MB"):
            table.add_column(column)
        for use in self._uses:
            table.add_row(
                Text(use.name),
                Text(use.state, style=STYLES.get(use.state, "red")),
                str(use.pid or "-"),
                duration(use.uptime_seconds),
                str(use.restarts),
                f"{use.cpu_percent:.0f}",
                f"{use.memory_bytes / 1e6:.0f}",
            )
        where = Text(f"{Path(self._installation.config.home)}, {time.strftime('%H:%M:%S')}; Ctrl-C ends the display")
        return Group(table, Text(""), *(Text(line) for line in self._news), where)

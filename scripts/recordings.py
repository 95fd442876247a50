"""The terminal recordings in docs/images/: real runs of `vashsender` as animated SVG.

`python -m scripts.recordings` renews them all. Each command runs on a pseudo-terminal in a new installation, and its
output becomes frames. Without animation (print, reduced motion) the last frame is shown.
"""

import codecs
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fcntl import ioctl
from io import StringIO
from itertools import pairwise
from pathlib import Path
from termios import TIOCSWINSZ

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from cli.output import say, step
from tests.support.command import Command
from tests.support.waiting import wait_for

IMAGES = Path(__file__).parents[1] / "docs" / "images"
COLUMNS, ROWS = 122, 60
LEAST_SECONDS, MOST_SECONDS, LAST_SECONDS = 0.35, 1.2, 8.0
FRAMES = 40
"""Maximum number of frames. If there are more, they are thinned out evenly."""

TOKENS = re.compile(r"\r\n|\n|\r|\x1b\[[0-9;?]*[A-Za-z]|[^\r\n\x1b]+")
ONE_TIME = re.compile(r"(/sign-in\S*?[?/=])[\w.~%-]{16,}")
PARTS = "{styles}\0{backgrounds}\0{matrix}\0{lines}\0{width}\0{height}\0{unique_id}"
PAGE = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{title}">
<title>{title}</title>
<style>
text {{ font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: 20px }}
.frame {{ visibility: hidden }}
.frame:last-of-type {{ visibility: visible }}
{styles}
@media (prefers-reduced-motion: no-preference) {{
.frame {{ animation: {seconds:.2f}s step-end infinite }}
{motion}
}}
</style>
<rect width="100%" height="100%" rx="10" fill="#0c0c0c"/>
<text x="20" y="34" fill="#9a9a9a">$ {title}</text>
{frames}
</svg>
"""


@dataclass(frozen=True)
class Frame:
    """The lines on the terminal with escape sequences for colours, and how long they were shown."""

    lines: tuple[str, ...]
    seconds: float


class Screen:
    """The part of a terminal that rich's progress bars and tables need: writing, clearing and rewriting lines."""

    def __init__(self) -> None:
        self.lines = [""]
        self._row = 0

    def feed(self, output: str) -> None:
        for token in TOKENS.findall(output):
            if token in ("\r\n", "\n"):
                self._row += 1
                if self._row == len(self.lines):
                    self.lines.append("")
            elif token.endswith("A") and token.startswith("\x1b["):
                self._row -= int(token[2:-1] or 1)
            elif token == "\x1b[2K":
                self.lines[self._row] = ""
            elif token.endswith("m") or not token.startswith(("\x1b", "\r")):
                self.lines[self._row] += token


def record(command: Command, *arguments: str, during: Callable[[float], None] = lambda _seconds: None) -> list[Frame]:
    """Runs a command on a new terminal to its end. Calls `during` repeatedly with the seconds since the start."""
    ours, theirs = pty.openpty()
    ioctl(theirs, TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = {**command.environment(), "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    process = subprocess.Popen(
        command.line(*arguments), env=environment, cwd=command.folder, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    screen, began, changes = Screen(), time.monotonic(), []
    decoder = codecs.getincrementaldecoder("utf-8")()
    while True:
        during(time.monotonic() - began)
        if not select.select([ours], [], [], 0.1)[0]:
            continue
        try:
            output = os.read(ours, 65_536)
        except OSError:  # the last process on the terminal has ended
            break
        screen.feed(ONE_TIME.sub(r"\1...", decoder.decode(output)))
        changes.append((time.monotonic() - began, tuple(screen.lines)))
    os.close(ours)
    if process.wait() != 0:
        raise RuntimeError(f"{arguments}: {process.returncode}\n" + "\n".join(screen.lines))
    return _frames(changes)


def _frames(changes: Sequence[tuple[float, tuple[str, ...]]]) -> list[Frame]:
    step = len(changes) // FRAMES + 1
    kept = [*changes[:-1:step], changes[-1]]
    found = [
        Frame(lines, min(MOST_SECONDS, max(LEAST_SECONDS, then - at))) for (at, lines), (then, _) in pairwise(kept)
    ]
    return [*found, Frame(kept[-1][1], LAST_SECONDS)]


def draw(title: str, frames: Sequence[Frame]) -> str:
    """The frames as one SVG, as high as its tallest frame."""
    total = sum(frame.seconds for frame in frames)
    styles, drawn, motion, width, height, at = [], [], [], 0.0, 0.0, 0.0
    for number, frame in enumerate(frames):
        console = Console(record=True, width=COLUMNS, file=StringIO(), legacy_windows=False)
        lines = list(frame.lines)
        while lines and not lines[-1]:
            lines.pop()
        console.print(Text("\n").join(Text.from_ansi(line) for line in lines), soft_wrap=True)
        parts = console.export_svg(title="", theme=MONOKAI, code_format=PARTS, unique_id=f"f{number}").split("\0")
        width, height = max(width, float(parts[4])), max(height, float(parts[5]))
        styles.append(parts[0])
        drawn.append(
            f'<g class="frame" id="frame{number}"><defs>{parts[3]}</defs>'
            f'<g transform="translate(20, 50)">{parts[1]}<g class="{parts[6]}-matrix">{parts[2]}</g></g></g>'
        )
        begin, end = at / total * 100, (at + frame.seconds) / total * 100
        motion.append(f"#frame{number} {{ animation-name: m{number} }}")
        motion.append(
            f"@keyframes m{number} {{ 0% {{ visibility: {'visible' if number == 0 else 'hidden'} }} "
            + (f"{begin:.3f}% {{ visibility: visible }} " if number else "")
            + (f"{end:.3f}% {{ visibility: hidden }} " if number < len(frames) - 1 else "")
            + "}"
        )
        at += frame.seconds
    svg = PAGE.format(
        title=title,
        width=round(width),
        height=round(height) + 24,
        styles="\n".join(styles),
        seconds=total,
        motion="\n".join(motion),
        frames="\n".join(drawn),
    )
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


def main() -> None:
    say("Terminal recordings in docs/images")
    with tempfile.TemporaryDirectory(prefix="vashsender-recordings-") as folder:
        command = Command(Path(folder))
        try:
            with step("demo.svg"):
                demo = record(command, "demo", "--kill-a-sender", "--timeout", "300")
                (IMAGES / "demo.svg").write_text(draw("vashsender demo --kill-a-sender", demo))
            with step("status.svg"):
                (IMAGES / "status.svg").write_text(draw("vashsender status", record(command, "status")[-1:]))
            with step("watch.svg"):
                campaign = _campaign(command)
                watched = record(command, "campaign", "watch", campaign, during=_kill_a_sender(command))
                (IMAGES / "watch.svg").write_text(draw("vashsender campaign watch ID", watched))
        finally:
            with step("stop"):
                command("stop")


def _campaign(command: Command) -> str:
    """Creates a campaign with a rate limit, so that there is time to look. Some addresses are deferred or refused."""
    odd = dict.fromkeys(range(100, 2000, 200), "deferred") | dict.fromkeys(range(50, 2000, 250), "refused")
    people = [f"{odd.get(number, 'person')}-{number}@example.com" for number in range(2000)]
    (command.folder / "people.csv").write_text("\n".join(["email", *people]) + "\n")
    draft = {
        "name": "Autumn news",
        "from": {"email": "news@example.com"},
        "subject": "News",
        "text": "Dear reader!",
        "emails_per_second": 150,
        "retry_delay_seconds": 2,
        "recipients_file": "people.csv",
    }
    (command.folder / "campaign.json").write_text(json.dumps(draft))
    return command.ok("campaign", "create", str(command.folder), "--send").strip()


def _kill_a_sender(command: Command) -> Callable[[float], None]:
    """Kills a sender that holds a batch, a few seconds after the start."""
    killed: list[int] = []

    def during(seconds: float) -> None:
        if seconds > 5 and not killed:
            owner = wait_for(lambda: command.json("inspect", "active"))[0]["owner"].partition("@")[0]
            killed.append(command.pids()[owner])
            os.kill(killed[0], signal.SIGKILL)

    return during


if __name__ == "__main__":
    main()

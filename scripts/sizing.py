"""Writes the table of docs/scaling.md and docs/scaling.svg from measured values: `python -m scripts.sizing`.

A test checks that they are current. When a measurement changes, change it here."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from cli.output import step

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "scaling.md"
PICTURE = DOCS / "scaling.svg"
BEGIN, END = "<!-- written by scripts.sizing -->\n", "<!-- end -->\n"

# Measured on two cores; docs/scaling.md names the commands. Microseconds of CPU per email, bytes per recipient.
SENDER_MICROSECONDS = 150.0
DISPATCHER_MICROSECONDS = 10.0
POSTGRESQL_MICROSECONDS = 50.0
"""Import and sending."""
LEDGER_BYTES = 470.0
LOG_BYTES = 840.0
"""Import and sending."""
ONE_SENDER = 4500.0
"""Emails a second that one sender process sent through a relay that takes no time."""

BATCH = 500
MESSAGES_PER_BATCH = 2
HEARTBEATS_PER_SECOND = 0.2
"""Of each sender."""

# Assumptions.
HOURS = 8
RELAY_SECONDS = 0.1
"""Seconds per email on one connection: round trip and the relay's own time."""
CONNECTIONS = 32
"""Per sender: VASHSENDER_SMTP_CONNECTIONS."""
SENDER_SHARE = 0.5
"""Planned load of a sender, as a share of its measured rate."""

VOLUMES = tuple(10**power for power in range(3, 10))
SHORT = {3: "thousand", 6: "million", 9: "billion"}


@dataclass(frozen=True)
class Size:
    """What an installation needs that sends `emails` a day within HOURS."""

    emails: int

    @property
    def per_second(self) -> float:
        return self.emails / (HOURS * 3600)

    @property
    def connections(self) -> int:
        return max(1, math.ceil(self.per_second * RELAY_SECONDS))

    @property
    def senders(self) -> int:
        by_cpu = self.per_second / (ONE_SENDER * SENDER_SHARE)
        return max(1, math.ceil(self.connections / CONNECTIONS), math.ceil(by_cpu))

    @property
    def cores(self) -> float:
        """Of senders and dispatcher."""
        return self.per_second * (SENDER_MICROSECONDS + DISPATCHER_MICROSECONDS) / 1e6

    @property
    def postgresql_cores(self) -> float:
        return self.per_second * POSTGRESQL_MICROSECONDS / 1e6

    @property
    def gigabytes(self) -> float:
        """Growth of the ledger per day."""
        return self.emails * LEDGER_BYTES / 1e9

    @property
    def log_megabytes(self) -> float:
        """WAL of PostgreSQL per second, for import and sending."""
        return self.per_second * LOG_BYTES / 1e6

    @property
    def messages(self) -> float:
        """Messages per second on the broker."""
        return self.per_second / BATCH * MESSAGES_PER_BATCH + self.senders * HEARTBEATS_PER_SECOND


COLUMNS: Sequence[tuple[str, Callable[[Size], str]]] = (
    ("emails a day", lambda size: _words(size.emails)),
    (f"emails/s in {HOURS} h", lambda size: _number(size.per_second)),
    ("connections", lambda size: f"{size.connections:,}"),
    ("senders", lambda size: f"{size.senders:,}"),
    ("cores: senders, dispatcher", lambda size: _number(size.cores)),
    ("cores: PostgreSQL", lambda size: _number(size.postgresql_cores)),
    ("ledger, a day", lambda size: _bytes(size.gigabytes)),
    ("WAL MB/s", lambda size: _number(size.log_megabytes)),
    ("broker messages/s", lambda size: _number(size.messages)),
)


def table() -> str:
    heads = "| " + " | ".join(name for name, _ in COLUMNS) + " |"
    rows = ["| " + " | ".join(cell(Size(volume)) for _, cell in COLUMNS) + " |" for volume in VOLUMES]
    return "\n".join([heads, "|" + "--:|" * len(COLUMNS), *rows]) + "\n"


def page(before: str) -> str:
    """The page with a current table."""
    head, _, rest = before.partition(BEGIN)
    return head + BEGIN + table() + END + rest.partition(END)[2]


def _words(number: int) -> str:
    power = (len(str(number)) - 1) // 3 * 3
    return f"{number // 10**power} {SHORT[power]}"


def _number(value: float) -> str:
    """Formats a number with two significant digits."""
    if value >= 100:
        return f"{round(value, 1 - math.floor(math.log10(value))):,.0f}"
    return "< 0.01" if value < 0.01 else f"{value:.2g}"


def _bytes(gigabytes: float) -> str:
    for factor, unit in ((1e3, "TB"), (1, "GB"), (1e-3, "MB")):
        if gigabytes >= factor:
            return f"{_number(gigabytes / factor)} {unit}"
    return f"{_number(gigabytes * 1e6)} KB"


# The picture: both axes are logarithmic with the same scale.

WIDTH, HEIGHT = 880, 470
LEFT, RIGHT, TOP, BOTTOM = 80, 170, 56, 410
LOWEST, HIGHEST = -1, 5
"""Powers of ten on the left axis."""

CURVES: Sequence[tuple[str, str, str, Callable[[Size], float]]] = (
    ("emails a second", "#35618f", "", lambda size: size.per_second),
    ("connections to relays", "#c0632a", "7 4", lambda size: size.connections),
    ("GB of ledger a day", "#7a4a8c", "2 3", lambda size: size.gigabytes),
    ("senders", "#4a7a3a", "", lambda size: size.senders),
    ("cores of PostgreSQL", "#55606b", "10 3 2 3", lambda size: size.postgresql_cores),
)


def picture() -> str:
    return "\n".join(_drawn()) + "\n"


def _drawn() -> Iterator[str]:
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'aria-labelledby="title description">'
    )
    yield '  <title id="title">What it takes, from a thousand emails a day to a billion</title>'
    last = Size(VOLUMES[-1])
    yield (
        '  <desc id="description">On logarithmic axes everything grows in proportion. At a billion a day: '
        f"{_number(last.per_second)} emails a second, {last.connections:,} connections, {last.senders} senders, "
        f"{_bytes(last.gigabytes)} of ledger a day.</desc>"
    )
    yield """  <style>
    text { fill: #22301f; font: 14px system-ui, sans-serif }
    .axis { stroke: #d5d9dd; stroke-width: 1 }
    .curve { fill: none; stroke-width: 2.4; stroke-linejoin: round }
    .small { font-size: 12px; fill: #55606b }
  </style>"""
    yield f'  <rect width="{WIDTH}" height="{HEIGHT}" rx="10" fill="#ffffff"/>'
    yield (
        f'  <text x="{LEFT}" y="30">What it takes, sent within {HOURS} hours; '
        f"a relay takes {RELAY_SECONDS:g} s for an email on a connection</text>"
    )
    for power in range(LOWEST, HIGHEST + 1):
        y = _y(10.0**power)
        yield f'  <path class="axis" d="M{LEFT} {y:.0f}H{WIDTH - RIGHT}"/>'
        yield f'  <text class="small" x="{LEFT - 10}" y="{y + 4:.0f}" text-anchor="end">{10.0**power:,g}</text>'
    for volume in VOLUMES:
        x = _x(volume)
        yield f'  <path class="axis" d="M{x:.0f} {TOP}V{BOTTOM}"/>'
        yield f'  <text class="small" x="{x:.0f}" y="{BOTTOM + 20}" text-anchor="middle">{_words(volume)}</text>'
    yield f'  <text x="{(LEFT + WIDTH - RIGHT) // 2}" y="{HEIGHT - 14}" text-anchor="middle">emails a day</text>'
    ends = apart([_y(value(last)) for _, _, _, value in CURVES])
    for (name, colour, dashes, value), end in zip(CURVES, ends, strict=True):
        points = [(_x(volume), value(Size(volume))) for volume in _steps()]
        path = "L".join(f"{x:.1f} {_y(what):.1f}" for x, what in points if what >= 10.0**LOWEST)
        dash = f' stroke-dasharray="{dashes}"' if dashes else ""
        yield f'  <path class="curve" stroke="{colour}"{dash} d="M{path}"/>'
        yield f'  <text x="{WIDTH - RIGHT + 10}" y="{end + 5:.0f}" style="fill: {colour}">{name}</text>'
    yield "</svg>"


def _steps() -> list[int]:
    """Twenty for each power of ten."""
    return [round(10 ** (3 + step / 20)) for step in range(6 * 20 + 1)]


def _x(volume: float) -> float:
    return LEFT + (math.log10(volume) - 3) / 6 * (WIDTH - RIGHT - LEFT)


def _y(value: float) -> float:
    return BOTTOM - (math.log10(value) - LOWEST) / (HIGHEST - LOWEST) * (BOTTOM - TOP)


def apart(places: Sequence[float], room: float = 20.0) -> list[float]:
    """The positions of labels, moved so that none overlap."""
    moved = list(places)
    for _ in range(len(moved)):
        order = sorted(range(len(moved)), key=moved.__getitem__)
        for upper, lower in pairwise(order):
            missing = room - (moved[lower] - moved[upper])
            if missing > 0:
                moved[upper] -= missing / 2
                moved[lower] += missing / 2
    return moved


def main() -> None:
    for path, text in ((PAGE, page(PAGE.read_text())), (PICTURE, picture())):
        with step(path.name):
            path.write_text(text)


if __name__ == "__main__":
    main()

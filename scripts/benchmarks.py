"""Writes the tables and plots of docs/benchmarks.md from docs/benchmarks.json: `python -m scripts.benchmarks`.

`make bench-compare` measures. A test checks that page and plots are current."""

import json
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scripts.sizing import apart

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "benchmarks.md"
MEASURED = DOCS / "benchmarks.json"
BEGIN, END = "<!-- written by scripts.benchmarks: {name} -->\n", "<!-- end -->\n"

OURS, FLOOR, TASKS = "VashSender", "floor", "tasks"
WITH_ROWS = (OURS, FLOOR, TASKS)
"""Those that use PostgreSQL; beside the others it only idles."""
CONTESTANTS: Mapping[str, tuple[str, str]] = {
    OURS: ("VashSender", "#35618f"),
    FLOOR: ("floor with rows", "#4a7a3a"),
    TASKS: ("one task per email", "#c0632a"),
    "aiosmtplib": ("aiosmtplib, no rows", "#7a4a8c"),
    "smtp-source": ("smtp-source (C), no rows", "#55606b"),
}
"""By the name in the measurements: the name on the page, and the colour."""


class Point(NamedTuple):
    """Medians of one contestant. CPU is in microseconds per email."""

    who: str
    recipients: int
    senders: int
    kilobytes: int
    rate: float
    own: float
    servers: float
    runs: int

    @property
    def cpu(self) -> float:
        return self.own + self.servers if self.who in WITH_ROWS else self.own


class Axis(NamedTuple):
    """What varies in one table; everything else is as in BASE."""

    name: str  # of a field of Point
    words: str


BASE = {"recipients": 10_000, "senders": 1, "kilobytes": 10}
AXES = (Axis("recipients", "recipients"), Axis("senders", "sender processes"), Axis("kilobytes", "KB per email"))


def points(measured: Mapping[str, Any]) -> list[Point]:
    """The medians of all runs, in the order of CONTESTANTS."""
    found: dict[tuple[str, int, int, int], list[Mapping[str, Any]]] = {}
    for run in measured["runs"]:
        found.setdefault((run["who"], run["recipients"], run["senders"], run["kilobytes"]), []).append(run)
    names = list(CONTESTANTS)
    in_order = sorted(found.items(), key=lambda one: (names.index(one[0][0]), *one[0][1:]))
    return [
        Point(
            *key,
            rate=statistics.median(run["emails_per_second"] for run in runs),
            own=statistics.median(run["own_microseconds"] for run in runs),
            servers=statistics.median(run["servers_microseconds"] for run in runs),
            runs=len(runs),
        )
        for key, runs in in_order
    ]


def along(axis: Axis, every: Sequence[Point]) -> list[Point]:
    """The points in which nothing but `axis` differs from BASE."""
    rest = {name: value for name, value in BASE.items() if name != axis.name}
    return [point for point in every if all(getattr(point, name) == value for name, value in rest.items())]


def table(axis: Axis, every: Sequence[Point]) -> str:
    """A row per contestant, and for each value of the axis emails per second and CPU: own, and servers' if any."""
    here = along(axis, every)
    values = sorted({getattr(point, axis.name) for point in here})
    by_place = {(point.who, getattr(point, axis.name)): point for point in here}
    rows = [f"| {axis.words} | " + " | ".join(f"{value:,}" for value in values) + " |", "|---|" + "--:|" * len(values)]
    for who, (words, _) in CONTESTANTS.items():
        cells = [_cell(by_place.get((who, value))) for value in values]
        rows.append(f"| {words} | " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def _cell(point: Point | None) -> str:
    if point is None:
        return ""
    servers = f" + {point.servers:,.0f}" if point.who in WITH_ROWS else ""
    return f"{point.rate:,.0f} ({point.own:,.0f}{servers})"


def page(before: str, every: Sequence[Point]) -> str:
    """The page with current tables."""
    for axis in AXES:
        head, begin, rest = before.partition(BEGIN.format(name=axis.name))
        if begin:
            before = head + begin + table(axis, every) + END + rest.partition(END)[2]
    return before


# The plots: two panels, values on a logarithmic axis. Each has its own background, for light and for dark pages.

WIDTH, HEIGHT, TOP, BOTTOM = 880, 330, 56, 270
PANELS = ((70, 325), (435, 690))
"""Left and right edge of each."""
PANEL_WORDS: Sequence[tuple[str, Callable[[Point], float]]] = (
    ("emails a second", lambda point: point.rate),
    ("microseconds of CPU per email, servers included", lambda point: point.cpu),
)
STYLE = """  <style>
    text { fill: #22301f; font: 13px system-ui, sans-serif }
    .axis { stroke: #d5d9dd; stroke-width: 1 }
    .curve { fill: none; stroke-width: 2.4; stroke-linejoin: round }
    .small { font-size: 12px; fill: #55606b }
  </style>"""


def picture(axis: Axis, every: Sequence[Point]) -> str:
    return "\n".join(_drawn(axis, along(axis, every))) + "\n"


def _drawn(axis: Axis, here: Sequence[Point]) -> Iterator[str]:
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'aria-labelledby="title description">'
    )
    yield f'  <title id="title">Emails a second and CPU by {axis.words}</title>'
    yield '  <desc id="description">The table beside this plot has its numbers.</desc>'
    yield STYLE
    yield f'  <rect width="{WIDTH}" height="{HEIGHT}" rx="10" fill="#ffffff"/>'
    for (left, right), (words, value) in zip(PANELS, PANEL_WORDS, strict=True):
        yield f'  <text x="{left}" y="30">{words}</text>'
        yield from _panel(axis, here, left, right, value, names=left > PANELS[0][0])
    yield "</svg>"


def _panel(
    axis: Axis, here: Sequence[Point], left: int, right: int, value: Callable[[Point], float], *, names: bool
) -> Iterator[str]:
    steps = sorted({getattr(point, axis.name) for point in here})
    apart_by = (right - left - 40) / max(1, len(steps) - 1)
    places = {step: left + 20 + apart_by * number for number, step in enumerate(steps)}
    lowest = math.floor(math.log10(min(map(value, here))))
    highest = math.ceil(math.log10(max(map(value, here))))

    def height(point: Point) -> float:
        return BOTTOM - (math.log10(value(point)) - lowest) / max(1, highest - lowest) * (BOTTOM - TOP)

    for power in range(lowest, highest + 1):
        y = BOTTOM - (power - lowest) / max(1, highest - lowest) * (BOTTOM - TOP)
        yield f'  <path class="axis" d="M{left} {y:.0f}H{right}"/>'
        yield f'  <text class="small" x="{left - 8}" y="{y + 4:.0f}" text-anchor="end">{10**power:,}</text>'
    for step, x in places.items():
        yield f'  <path class="axis" d="M{x:.0f} {TOP}V{BOTTOM}"/>'
        yield f'  <text class="small" x="{x:.0f}" y="{BOTTOM + 20}" text-anchor="middle">{step:,}</text>'
    yield f'  <text class="small" x="{(left + right) // 2}" y="{HEIGHT - 14}" text-anchor="middle">{axis.words}</text>'
    lines = {who: [point for point in here if point.who == who] for who in CONTESTANTS}
    lines = {who: line for who, line in lines.items() if line}
    ends = apart([height(line[-1]) for line in lines.values()])
    for (who, line), end in zip(lines.items(), ends, strict=True):
        words, colour = CONTESTANTS[who]
        spots = [(places[getattr(point, axis.name)], height(point)) for point in line]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in spots)
        yield f'  <path class="curve" stroke="{colour}" d="M{path}"/>'
        for x, y in spots:
            yield f'  <circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>'
        if names:
            yield f'  <text x="{right + 10}" y="{end + 5:.0f}" style="fill: {colour}">{words}</text>'


def picture_path(axis: Axis) -> Path:
    return DOCS / f"benchmarks-{axis.name}.svg"


def main() -> None:
    every = points(json.loads(MEASURED.read_text()))
    PAGE.write_text(page(PAGE.read_text(), every))
    for axis in AXES:
        picture_path(axis).write_text(picture(axis, every))


if __name__ == "__main__":
    main()

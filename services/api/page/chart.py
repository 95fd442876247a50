"""A campaign's rate over time: its curve of totals as columns of emails per second, and where they are drawn."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from services.api.page import words
from shared.ledger.history import Point

WIDTH, HEIGHT = 720.0, 200.0
LEFT, RIGHT, TOP, BOTTOM = 48.0, 8.0, 10.0, 24.0
MAX_COLUMNS = 72
GAP = 1.5
LATELY_SECONDS = 5.0

_STEPS_SECONDS = (
    *(0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0),
    *(60.0, 120.0, 300.0, 600.0, 900.0, 1800.0),
    *(3600.0, 7200.0, 14_400.0, 21_600.0, 43_200.0, 86_400.0, 172_800.0, 604_800.0),
)
_TICKS_AT_MOST = 7


@dataclass(frozen=True, slots=True)
class Column:
    """One interval. Lengths are in units of the picture, from its upper left corner."""

    x: float
    width: float
    sent_y: float
    sent_height: float
    failed_y: float
    failed_height: float
    title: str


@dataclass(frozen=True, slots=True)
class Tick:
    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Chart:
    """What the template draws."""

    columns: Sequence[Column]
    heights: Sequence[Tick]
    moments: Sequence[Tick]
    rows: Sequence[tuple[str, float, float]]  # a few intervals as text, for people who do not see the picture
    has_failed: bool
    summary: str


def draw(curve: Sequence[Point]) -> Chart | None:
    """The chart of a curve, oldest point first; None if it is too short to show anything."""
    if len(curve) < 2 or curve[-1].at - curve[0].at < 1.0 or curve[-1][1:] == (0, 0):
        return None
    start, seconds = curve[0].at, curve[-1].at - curve[0].at
    number = max(1, min(MAX_COLUMNS, math.floor(seconds)))
    rates = _rates(curve, start, seconds, number)
    top = _round_up(max(sent + failed for sent, failed in rates))
    span = seconds / number
    columns = []
    width = (WIDTH - LEFT - RIGHT) / number
    for index, (sent, failed) in enumerate(rates):
        sent_height, failed_height = _height(sent, top), _height(failed, top)
        base = HEIGHT - BOTTOM
        columns.append(
            Column(
                x=round(LEFT + index * width, 2),
                width=round(max(width - GAP, width * 0.7), 2),
                sent_y=round(base - sent_height, 2),
                sent_height=sent_height,
                failed_y=round(base - sent_height - failed_height, 2),
                failed_height=failed_height,
                title=_title(index * span, (index + 1) * span, sent, failed),
            )
        )
    highest = max(range(number), key=lambda index: rates[index])
    return Chart(
        columns=columns,
        heights=[Tick(round(HEIGHT - BOTTOM - _height(value, top), 2), words.number(value)) for value in _values(top)],
        moments=_moments(seconds),
        rows=_rows(curve, start, seconds),
        has_failed=any(failed for _, failed in rates),
        summary=(
            f"Over {words.lasting(seconds)}: {words.number((curve[-1].sent - curve[0].sent) / seconds)} emails "
            f"sent per second on average, at most {words.number(rates[highest][0])}, "
            f"{words.lasting(highest * span)} after the start."
        ),
    )


def lately(curve: Sequence[Point]) -> float:
    """Emails sent per second over the last seconds of a curve."""
    if len(curve) < 2:
        return 0.0
    since = max(curve[0].at, curve[-1].at - LATELY_SECONDS)
    seconds = curve[-1].at - since
    return (curve[-1].sent - _totals(curve, since)[0]) / seconds if seconds > 0 else 0.0


def _rates(curve: Sequence[Point], start: float, seconds: float, number: int) -> list[tuple[float, float]]:
    totals = [_totals(curve, start + seconds * index / number) for index in range(number + 1)]
    span = seconds / number
    # The total of failures falls when they are retried; that is not a rate.
    return [
        (max(later[0] - earlier[0], 0.0) / span, max(later[1] - earlier[1], 0.0) / span)
        for earlier, later in pairwise(totals)
    ]


def _totals(curve: Sequence[Point], at: float) -> tuple[float, float]:
    """Sent and failed at a moment, interpolated between two points."""
    for earlier, later in pairwise(curve):
        if at <= later.at:
            part = (at - earlier.at) / (later.at - earlier.at) if later.at > earlier.at else 1.0
            part = min(max(part, 0.0), 1.0)
            return (
                earlier.sent + (later.sent - earlier.sent) * part,
                earlier.failed + (later.failed - earlier.failed) * part,
            )
    return float(curve[-1].sent), float(curve[-1].failed)


def _height(value: float, top: float) -> float:
    return round(value / top * (HEIGHT - TOP - BOTTOM), 2)


def _round_up(value: float) -> float:
    """The next number that divides well: 1, 2, 4, 5 or 8 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value)) if value > 0 else 1.0
    return next(step * power for step in (1, 2, 4, 5, 8, 10) if step * power >= value * 0.9999)


def _values(top: float) -> list[float]:
    return [top * quarter / 4 for quarter in range(5)]


def _moments(seconds: float) -> list[Tick]:
    step = next((step for step in _STEPS_SECONDS if seconds / step <= _TICKS_AT_MOST), seconds / _TICKS_AT_MOST)
    width = WIDTH - LEFT - RIGHT
    return [
        Tick(round(LEFT + width * index * step / seconds, 2), _elapsed(index * step))
        for index in range(math.floor(seconds / step) + 1)
    ]


def _rows(curve: Sequence[Point], start: float, seconds: float) -> list[tuple[str, float, float]]:
    number = max(1, min(8, math.floor(seconds)))
    span = seconds / number
    return [
        (f"{_elapsed(index * span)} – {_elapsed((index + 1) * span)}", sent, failed)
        for index, (sent, failed) in enumerate(_rates(curve, start, seconds, number))
    ]


def _title(since: float, until: float, sent: float, failed: float) -> str:
    more = f", {words.number(failed)} failed" if failed else ""
    return f"{_elapsed(since)} – {_elapsed(until)}: {words.number(sent)} sent{more} per second"


def _elapsed(seconds: float) -> str:
    return "0" if seconds == 0 else words.lasting(seconds).replace(".0 s", " s")

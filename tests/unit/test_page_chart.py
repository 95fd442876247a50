"""A campaign's curve as columns, and numbers in words."""

from hypothesis import given
from hypothesis import strategies as st

from services.api.page import chart, words
from shared.ledger.history import Point


def even(seconds: int, per_second: int, start: float = 1000.0) -> list[Point]:
    return [Point(start + second, second * per_second, 0) for second in range(seconds + 1)]


def test_an_even_rate_gives_even_columns() -> None:
    drawn = chart.draw(even(60, 250))
    assert drawn is not None
    assert len(drawn.columns) == 60
    assert len({column.sent_height for column in drawn.columns}) == 1
    assert "250 emails sent per second on average, at most 250" in drawn.summary
    assert [tick.label for tick in drawn.heights] == ["0", "100", "200", "300", "400"]


def test_a_pause_is_a_gap() -> None:
    curve = [Point(0.0, 0, 0), Point(10.0, 1000, 0), Point(30.0, 1000, 0), Point(40.0, 2000, 0)]
    drawn = chart.draw(curve)
    assert drawn is not None
    assert [bool(column.sent_height) for column in drawn.columns] == [True] * 10 + [False] * 20 + [True] * 10


def test_a_long_campaign_has_as_many_columns_as_fit() -> None:
    drawn = chart.draw([Point(0.0, 0, 0), Point(86_400.0, 1_000_000, 5)])
    assert drawn is not None
    assert len(drawn.columns) == chart.MAX_COLUMNS
    assert drawn.has_failed
    assert drawn.moments[0].label == "0"
    assert drawn.moments[-1].label == "1 d"


def test_retried_failures_draw_nothing_below_the_axis() -> None:
    drawn = chart.draw([Point(0.0, 0, 0), Point(5.0, 100, 50), Point(10.0, 200, 0)])
    assert drawn is not None
    assert all(column.failed_height >= 0 for column in drawn.columns)


def test_too_little_is_not_drawn() -> None:
    assert chart.draw([]) is None
    assert chart.draw([Point(5.0, 0, 0)]) is None
    assert chart.draw([Point(5.0, 0, 0), Point(5.5, 100, 0)]) is None
    assert chart.draw([Point(5.0, 0, 0), Point(50.0, 0, 0)]) is None


@given(st.lists(st.tuples(st.floats(0.01, 1e5), st.integers(0, 10**6), st.integers(0, 1000)), min_size=1, max_size=120))
def test_every_curve_stays_inside_the_picture(steps: list[tuple[float, int, int]]) -> None:
    curve = [Point(0.0, 0, 0)]
    for seconds, sent, failed in steps:
        curve.append(Point(curve[-1].at + seconds, curve[-1].sent + sent, failed))
    drawn = chart.draw(curve)
    for column in drawn.columns if drawn else ():
        assert chart.LEFT <= column.x <= column.x + column.width <= chart.WIDTH
        assert chart.TOP - 0.5 <= column.failed_y <= column.sent_y <= chart.HEIGHT - chart.BOTTOM


def test_the_rate_of_the_last_seconds() -> None:
    assert chart.lately([]) == 0.0
    assert chart.lately(even(60, 100)) == 100.0
    assert chart.lately([*even(60, 100), Point(1070.0, 6000, 0)]) == 0.0


def test_numbers_in_words() -> None:
    assert [words.number(value) for value in (None, 0, 12_345, 7.5, 0.04, 250.0)] == [
        "–",
        "0",
        "12,345",
        "7.5",
        "0.04",
        "250",
    ]
    assert [words.lasting(value) for value in (0.84, 42, 200, 18_720, 273_600)] == [
        "0.8 s",
        "42 s",
        "3 min 20 s",
        "5 h 12 min",
        "3 d 4 h",
    ]


def test_a_percentage_is_never_rounded_to_nothing_or_to_all() -> None:
    assert [words.percent(part, 1_000_000) for part in (0, 1, 630_000, 999_999, 1_000_000)] == [
        "0%",
        "0.1%",
        "63%",
        "99.9%",
        "100%",
    ]
    assert words.percent(0, 0) == "0%"


def test_a_moment_is_escaped_and_in_utc() -> None:
    assert words.moment(0.0) == '<time datetime="1970-01-01T00:00:00Z">1970-01-01 00:00:00 UTC</time>'

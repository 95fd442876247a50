"""docs/benchmarks.md and its plots show what docs/benchmarks.json says."""

import json
import re
from xml.etree import ElementTree

import pytest

from scripts import benchmarks
from scripts.benchmarks import AXES, BASE, CONTESTANTS, OURS, Axis, Point

EVERY = benchmarks.points(json.loads(benchmarks.MEASURED.read_text()))
RUN = {"who": OURS, **BASE, "emails_per_second": 100.0, "own_microseconds": 20.0, "servers_microseconds": 5.0}


def test_the_page_has_the_measured_numbers() -> None:
    page = benchmarks.PAGE.read_text()
    assert page == benchmarks.page(page, EVERY), "run: python -m scripts.benchmarks"
    ours = next(point for point in EVERY if point.who == OURS)
    assert f"{ours.rate:,.0f} ({ours.own:,.0f} + {ours.servers:,.0f})" in page


@pytest.mark.parametrize("axis", AXES, ids=lambda axis: axis.name)
def test_a_plot_has_the_measured_numbers(axis: Axis) -> None:
    drawn = benchmarks.picture(axis, EVERY)
    assert benchmarks.picture_path(axis).read_text() == drawn, "run: python -m scripts.benchmarks"
    shapes = ElementTree.fromstring(drawn)
    dots = [shape for shape in shapes.iter() if shape.tag.endswith("circle")]
    assert len(dots) == 2 * len(benchmarks.along(axis, EVERY))


def test_every_contestant_was_measured() -> None:
    assert {point.who for point in EVERY} == set(CONTESTANTS)


def test_a_point_is_the_median_of_its_runs() -> None:
    runs = [{**RUN, "emails_per_second": rate} for rate in (90.0, 300.0, 110.0)]
    assert benchmarks.points({"runs": runs}) == [Point(OURS, 10_000, 1, 10, 110.0, 20.0, 5.0, 3)]


def test_a_table_keeps_everything_but_its_axis_as_usual() -> None:
    other = {**RUN, "senders": 2, "emails_per_second": 7777.0}
    tables = {axis.name: benchmarks.table(axis, benchmarks.points({"runs": [RUN, other]})) for axis in AXES}
    assert "7,777 (20 + 5)" in tables["senders"]
    assert not re.search("7,777", tables["recipients"] + tables["kilobytes"])

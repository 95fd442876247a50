"""The dashboards match their source, follow Grafana's schema, and describe what they show.

The schemas in tests/support/grafana are made from the types of npm's @grafana/schema; see docs/dashboards.md.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

from scripts.dashboards.__main__ import FOLDER, files
from scripts.dashboards.common import PAGES

SCHEMAS = Path(__file__).parents[1] / "support" / "grafana"
DASHBOARDS = sorted(FOLDER.glob("*.json"))
UNITS = {"bytes", "locale", "none", "percentunit", "reqps", "s", "suffix:/s"}
"""Grafana's unit ids in use. Grafana would show a wrong one as text after the number."""


@pytest.fixture(params=DASHBOARDS, ids=lambda path: path.stem)
def dashboard(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(request.param.read_text())
    return found


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def assert_valid(schema: str, instance: object) -> None:
    validator = Draft7Validator(json.loads((SCHEMAS / f"{schema}.json").read_text()))
    problems = [f"{'.'.join(map(str, error.path))}: {error.message}" for error in validator.iter_errors(instance)]
    assert not problems, "\n".join(problems)


def test_the_files_match_their_source() -> None:
    wanted = files()
    assert set(DASHBOARDS) == set(wanted)
    for path, text in wanted.items():
        assert path.read_text() == text, "run: python -m scripts.dashboards"


def test_a_dashboard_is_valid_by_grafanas_schema(dashboard: dict[str, Any]) -> None:
    assert_valid("dashboard", dashboard)
    for panel in panels(dashboard):
        assert_valid(f"{panel['type']}.options", panel["options"])
        if panel["type"] == "timeseries":
            assert_valid("timeseries.field", panel["fieldConfig"]["defaults"]["custom"])


def test_grafanas_schema_rejects_mistakes(dashboard: dict[str, Any]) -> None:
    dashboard["panels"][1]["fieldConfig"]["defaults"]["units"] = "s"
    with pytest.raises(AssertionError, match="units"):
        assert_valid("dashboard", dashboard)


def test_each_panel_has_a_description_and_a_unit(dashboard: dict[str, Any]) -> None:
    titles = [panel["title"] for panel in panels(dashboard)]
    assert len(set(titles)) == len(titles)
    for panel in panels(dashboard):
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, panel["title"]
        assert panel["targets"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"


def test_panels_do_not_overlap(dashboard: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_every_variable_is_defined_and_used(dashboard: dict[str, Any]) -> None:
    defined = {variable["name"] for variable in dashboard["templating"]["list"]}
    text = json.dumps([dashboard["panels"], dashboard["templating"]["list"]])
    used = set(re.findall(r"\$\{?([a-z]+)\b", text)) - {"__rate_interval"}
    assert used == defined


def test_they_link_to_each_other(dashboard: dict[str, Any]) -> None:
    linked = {link["url"].removeprefix("/d/") for link in dashboard["links"]}
    assert linked | {dashboard["uid"]} == set(PAGES)

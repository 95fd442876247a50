"""Makes Grafana's dashboard JSON from short definitions: panels with queries, units and descriptions, in rows."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# Blue, orange and red differ in lightness, too; green and red would look the same to one man in twelve.
GOOD, WARN, BAD = "blue", "orange", "red"
SCHEMA_VERSION = 39  # of Grafana 10.4 and later, which migrate it by themselves
COUNT = "locale"
"""A whole number, with separators between thousands."""
PER_SECOND = "suffix:/s"
COLUMNS = 24
TAG = "vashsender"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a panel."""

    #: PromQL.
    expr: str
    #: Names of its series, with `{{label}}`.
    legend: str = ""
    #: Whether only the newest value counts.
    instant: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel of a dashboard."""

    #: `stat`, `timeseries` or `bargauge`.
    kind: str
    title: str
    description: str
    #: One of Grafana's unit ids.
    unit: str
    queries: Sequence[Query]
    width: int = 8
    height: int = 8
    stacked: bool = False
    #: Upper end of the scale; None: automatic.
    most: float | None = None
    #: Colours, each with the value from which it holds; None: from the start.
    steps: Sequence[tuple[str, float | None]] = ((GOOD, None),)
    #: Colours of series, by a regular expression for their whole names; of several that match the last counts. Others
    #: get shades of one colour.
    colors: Mapping[str, str] = field(default_factory=dict)
    #: Said instead of a value or curves if there are none.
    empty: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True, slots=True)
class Variable:
    """A choice at the top of a dashboard: label values from `query`, or `choices` with the first as default."""

    name: str
    label: str
    query: str = ""
    multi: bool = False
    choices: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Dashboard:
    uid: str
    title: str
    description: str
    variables: Sequence[Variable]
    rows: Sequence[Row]
    links: Sequence[tuple[str, str]] = field(default_factory=tuple)

    def json(self) -> Json:
        """The model as Grafana stores it."""
        return {
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": [TAG],
            "schemaVersion": SCHEMA_VERSION,
            "version": 1,
            "editable": True,
            "graphTooltip": 1,
            "refresh": "10s",
            "time": {"from": "now-1h", "to": "now"},
            "timezone": "browser",
            "annotations": {"list": []},
            "links": [_link(title, url) for title, url in self.links],
            "templating": {"list": [_datasource(), *(_variable(variable) for variable in self.variables)]},
            "panels": list(_lay_out(self.rows)),
        }


def _link(title: str, url: str) -> Json:
    return {
        "title": title,
        "type": "link",
        "url": url,
        "icon": "dashboard",
        "tooltip": title,
        "tags": [],
        "asDropdown": False,
        "includeVars": True,
        "keepTime": True,
        "targetBlank": False,
    }


def _datasource() -> Json:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "refresh": 1}


def _variable(variable: Variable) -> Json:
    common: Json = {"name": variable.name, "label": variable.label}
    if variable.choices:
        options = [
            {"selected": number == 0, "text": choice, "value": choice} for number, choice in enumerate(variable.choices)
        ]
        return common | {
            "type": "custom",
            "query": ",".join(variable.choices),
            "options": options,
            "current": options[0],
        }
    all_of_them = {"includeAll": True, "allValue": ".*"} if variable.multi else {}
    return common | {
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": variable.query, "refId": variable.name},
        "refresh": 2,
        "sort": 1,
        "multi": variable.multi,
        **all_of_them,
        **({"current": {"selected": True, "text": "All", "value": "$__all"}} if variable.multi else {}),
    }


def _lay_out(rows: Iterable[Row]) -> Iterable[Json]:
    """Places panels row by row from left to right; a panel that does not fit starts a new line."""
    y, number = 0, 0
    for row in rows:
        number += 1
        yield {
            "type": "row",
            "id": number,
            "title": row.title,
            "collapsed": False,
            "panels": [],
            "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
        }
        y, x, tallest = y + 1, 0, 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                y, x, tallest = y + tallest, 0, 0
            number += 1
            yield _panel(panel, number, {"x": x, "y": y, "w": panel.width, "h": panel.height})
            x, tallest = x + panel.width, max(tallest, panel.height)
        y += tallest


def _panel(panel: Panel, number: int, place: Mapping[str, int]) -> Json:
    defaults: Json = {
        "unit": panel.unit,
        "min": 0,
        "thresholds": {
            "mode": "absolute",
            "steps": [{"color": color, "value": value} for color, value in panel.steps],
        },
        "color": {"mode": "shades", "fixedColor": GOOD} if panel.kind == "timeseries" else {"mode": "thresholds"},
        "custom": _curves(panel) if panel.kind == "timeseries" else {},
    }
    if panel.unit == COUNT:
        defaults["decimals"] = 0
    elif panel.unit == "percentunit":
        defaults["decimals"] = 1
    if panel.most is not None:
        defaults["max"] = panel.most
    if panel.empty:
        defaults["noValue"] = panel.empty
    return {
        "type": panel.kind,
        "id": number,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "gridPos": dict(place),
        "targets": [_target(query, place) for place, query in enumerate(panel.queries)],
        "fieldConfig": {"defaults": defaults, "overrides": [_colored(*one) for one in panel.colors.items()]},
        "options": _options(panel),
    }


def _options(panel: Panel) -> Json:
    options = OPTIONS[panel.kind]
    if panel.kind == "timeseries" and panel.width >= WIDE:
        return options | {"legend": options["legend"] | WIDE_LEGEND}
    return options


def _colored(series: str, color: str) -> Json:
    return {
        "matcher": {"id": "byRegexp", "options": f"/^(?:{series})$/"},
        "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": color}}],
    }


def _target(query: Query, place: int) -> Json:
    return {
        "refId": "ABCDEFGH"[place],
        "datasource": DATASOURCE,
        "editorMode": "code",
        "expr": query.expr,
        "legendFormat": query.legend or "__auto",
        "range": not query.instant,
        "instant": query.instant,
        "format": "time_series",
    }


def _curves(panel: Panel) -> Json:
    return {
        "drawStyle": "line",
        # A line on top of a stack would have the colour of the last series, even if that is 0.
        "lineWidth": 0 if panel.stacked else 2,
        "fillOpacity": 70 if panel.stacked else 10,
        "showPoints": "never",
        # So that a curve of zeros does not get a scale up to 100.
        **({"axisSoftMax": 1} if panel.unit == COUNT else {}),
        "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
    }


WIDE = 12
"""Columns from which a panel has room for a table beside its curves."""
WIDE_LEGEND: Json = {"calcs": ["lastNotNull", "max"], "displayMode": "table", "placement": "right"}
_LAST: Json = {"calcs": ["lastNotNull"], "fields": "", "values": False}
OPTIONS: Mapping[str, Json] = {
    "stat": {
        "colorMode": "value",
        "graphMode": "area",
        "justifyMode": "auto",
        "orientation": "auto",
        "percentChangeColorMode": "standard",
        "reduceOptions": _LAST,
        "showPercentChange": False,
        "textMode": "auto",
        "wideLayout": True,
    },
    "timeseries": {
        # A table below would show three series and hide the others.
        "legend": {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "bargauge": {
        "displayMode": "basic",
        "legend": {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": False},
        "maxVizHeight": 300,
        "minVizHeight": 16,
        "minVizWidth": 8,
        "namePlacement": "auto",
        "orientation": "horizontal",
        "reduceOptions": _LAST,
        "showUnfilled": True,
        "sizing": "auto",
        "valueMode": "color",
    },
}

"""The values of a dashboard's variables, filled into its queries as Grafana would."""

import re
from collections.abc import Mapping
from typing import Any

from tests.support.prometheus import Prometheus


def chosen(server: Prometheus, dashboard: Mapping[str, Any], rate_interval: str) -> dict[str, str]:
    """The variables with Grafana's defaults: all values if several may be chosen, otherwise the first."""
    values = {"__rate_interval": rate_interval}
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "custom":
            values[variable["name"]] = variable["current"]["value"]
        elif variable["type"] == "query":
            query = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
            assert query is not None
            found = server.label_values(query[2], substituted(query[1], values))
            assert found, f"nothing to choose for ${variable['name']}"
            values[variable["name"]] = "|".join(found) if variable["multi"] else found[0]
    return values


def substituted(expr: str, variables: Mapping[str, str]) -> str:
    """A query with the values of its variables."""
    for name in sorted(variables, key=len, reverse=True):
        expr = expr.replace(f"${name}", variables[name])
    assert "$" not in expr, expr
    return expr

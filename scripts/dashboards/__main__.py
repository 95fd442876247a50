"""Writes deploy/grafana/dashboards: `python -m scripts.dashboards`. A test checks that the files are current."""

import json
from pathlib import Path

from scripts.dashboards.broker import BROKER
from scripts.dashboards.campaigns import CAMPAIGNS
from scripts.dashboards.events import EVENTS
from scripts.dashboards.overview import OVERVIEW
from scripts.dashboards.senders import SENDERS

FOLDER = Path(__file__).parents[2] / "deploy" / "grafana" / "dashboards"
DASHBOARDS = (OVERVIEW, SENDERS, CAMPAIGNS, BROKER, EVENTS)


def files() -> dict[Path, str]:
    """Every dashboard's file and its content."""
    return {
        FOLDER / f"{dashboard.uid.removeprefix('vashsender-')}.json": json.dumps(dashboard.json(), indent=2) + "\n"
        for dashboard in DASHBOARDS
    }


def main() -> None:
    for path, text in files().items():
        path.write_text(text)


if __name__ == "__main__":
    main()

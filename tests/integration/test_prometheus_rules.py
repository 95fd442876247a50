"""Configuration, rules and alerts, checked and tested with promtool. Every alert has a runbook."""

import re
import subprocess
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from scripts.metrics_page import SERVICES, registry

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy" / "prometheus"
ALERTS = sorted(path.stem for path in (DEPLOY / "alerts").glob("*.yml"))


def promtool(*arguments: str | Path, given: bytes = b"") -> None:
    done = subprocess.run(
        ["promtool", *map(str, arguments)], input=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    assert done.returncode == 0, done.stdout.decode()


def test_configuration_and_rules_are_valid() -> None:
    promtool("check", "config", DEPLOY / "prometheus.yml")
    promtool("check", "rules", DEPLOY / "rules.yml", *(DEPLOY / "alerts").glob("*.yml"))


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_stays_silent_and_fires_correctly(alert: str) -> None:
    promtool("test", "rules", DEPLOY / "tests" / f"{alert}.yml")


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_is_complete(alert: str) -> None:
    text = (DEPLOY / "alerts" / f"{alert}.yml").read_text()
    names = re.findall(r"- alert: (\w+)", text)
    assert len(names) == 1
    for field in (
        "severity: (warning|critical)",
        "summary: ",
        "description: ",
        f"runbook_url: docs/runbooks/{alert}.md",
    ):
        assert re.search(field, text), field
    page = (ROOT / "docs" / "runbooks" / f"{alert}.md").read_text()
    assert page.startswith(f"# {names[0]}\n")
    assert [line for line in page.splitlines() if line.startswith("## ")] == ["## What it means", "## Look at", "## Do"]
    tests = (DEPLOY / "tests" / f"{alert}.yml").read_text()
    assert "- name: silent" in tests
    assert "- name: fires" in tests
    assert f"[{names[0]}](runbooks/{alert}.md)" in (ROOT / "docs" / "alerts.md").read_text()


@pytest.mark.parametrize("service", SERVICES)
def test_metric_names_follow_prometheus_rules(service: str) -> None:
    promtool("check", "metrics", given=generate_latest(registry(service)))

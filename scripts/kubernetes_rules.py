"""Writes the PrometheusRule of deploy/kubernetes from deploy/prometheus: `python -m scripts.kubernetes_rules`. A test
keeps them the same."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "deploy" / "prometheus"
TARGET = ROOT / "deploy" / "kubernetes" / "components" / "monitoring" / "rules.yaml"

HEAD = """\
# Written by `python -m scripts.kubernetes_rules` from deploy/prometheus: change the rules and alerts there.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: vashsender
spec:
  groups:
"""


def manifest() -> str:
    """Every group of rules.yml and of each alert file, unchanged."""
    return HEAD + "".join(map(_groups, (SOURCES / "rules.yml", *sorted((SOURCES / "alerts").glob("*.yml")))))


def _groups(source: Path) -> str:
    _, found, groups = source.read_text().partition("groups:\n")
    if not found:
        raise ValueError(f"{source} has no groups")
    return "".join(f"  {line}\n" if line else "\n" for line in groups.splitlines())


def main() -> None:
    TARGET.write_text(manifest())


if __name__ == "__main__":
    main()

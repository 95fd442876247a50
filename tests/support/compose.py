"""`deploy/compose/compose.yaml` as Docker Compose reads it: variables filled in, merge keys applied."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parents[2] / "deploy" / "compose"
FILE = FOLDER / "compose.yaml"

_VARIABLE = re.compile(r"\$(?:\$|\{(\w+)(?::-([^}]*))?\})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One entry of a service's `volumes`. `source` is a path, or the name of a volume."""

    source: str
    target: str
    read_only: bool

    @property
    def path(self) -> Path | None:
        """The mounted path of this repository. None for a named volume."""
        return (FOLDER / self.source).resolve() if self.source.startswith(".") else None


def load(environment: Mapping[str, str] | None = None, file: Path = FILE) -> dict[str, Any]:
    """The whole file, with `${NAME:-default}` replaced from `environment`."""
    whole: dict[str, Any] = _filled(yaml.safe_load(file.read_text()), environment or {})
    return whole


def mounts(service: Mapping[str, Any]) -> list[Mount]:
    found = []
    for entry in service.get("volumes", ()):
        source, target, *options = entry.split(":")
        found.append(Mount(source, target, options == ["ro"]))
    return found


def secrets(service: Mapping[str, Any]) -> dict[str, str]:
    """Names of secrets by their path in the container."""
    found = {}
    for entry in service.get("secrets", ()):
        source, target = (entry, entry) if isinstance(entry, str) else (entry["source"], entry["target"])
        found[target if target.startswith("/") else f"/run/secrets/{target}"] = source
    return found


def seconds(duration: str) -> float:
    """`90s` or `1m`."""
    number, unit = float(duration[:-1]), duration[-1]
    return number * {"s": 1, "m": 60}[unit]


def _filled(value: Any, environment: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(inner, environment) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, environment) for inner in value]
    return _VARIABLE.sub(lambda match: _variable(match, environment), value) if isinstance(value, str) else value


def _variable(match: re.Match[str], environment: Mapping[str, str]) -> str:
    name, default = match.groups()
    if name is None:
        return "$"
    found = environment.get(name) or default
    assert found is not None, f"{name} is not set and has no default"
    return found

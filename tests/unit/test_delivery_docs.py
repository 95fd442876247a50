"""docs/delivery.md gives every default as the code has it."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from services.sender.smtp import config, relay
from services.sender.smtp.config import EngineConfig
from shared.relays import url
from shared.settings import PREFIX, SenderSettings

PAGE = (Path(__file__).parents[2] / "docs" / "delivery.md").read_text()
ROWS = re.findall(r"^\| [^|]+ \| `([\w.]+)` \| ([^|]*) \|$", PAGE, re.MULTILINE)
MODULES = {"config": config, "relay": relay, "url": url}


def value(name: str) -> float:
    """The default of a setting, a constant, or a field of `EngineConfig`."""
    if name.startswith(PREFIX):
        return float(SenderSettings.model_fields[name.removeprefix(PREFIX).lower()].default)
    module, *rest = name.split(".")
    if rest[0] == EngineConfig.__name__:
        return float(next(each.default for each in fields(EngineConfig) if each.name == rest[1]))  # type: ignore[arg-type]
    return float(getattr(MODULES[module], rest[0]))


@pytest.mark.parametrize(("name", "shown"), ROWS)
def test_a_default_is_documented_as_it_is(name: str, shown: str) -> None:
    assert float(shown.removesuffix("; by profile").removesuffix(" s")) == value(name)
    assert shown.endswith(" s") == name.lower().endswith("_seconds")


def test_every_limit_of_the_engine_is_documented() -> None:
    documented = {name.removeprefix(PREFIX).lower() for name, _ in ROWS} | {name.rpartition(".")[2] for name, _ in ROWS}
    prefixes = ("smtp_", "email_", "relay_")
    numbers = {name for name, field in SenderSettings.model_fields.items() if isinstance(field.default, int | float)}
    assert {name for name in numbers if name.startswith(prefixes)} <= documented
    assert {"stall_seconds", "quit_seconds"} <= documented

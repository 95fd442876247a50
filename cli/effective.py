"""The value of every setting, and where it comes from."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dotenv import dotenv_values
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from cli.settings import LocalSettings
from shared import settings
from shared.env_file import env_file
from shared.settings import PREFIX, PROFILES, SETTINGS, CommonSettings

CLASSES: Mapping[str, type[CommonSettings]] = {**SETTINGS, "this machine": LocalSettings}
"""Every settings class, by the service that reads it."""


@dataclass(frozen=True, slots=True)
class Setting:
    variable: str
    value: object
    source: str


def fields() -> Iterator[tuple[str, str, FieldInfo]]:
    """Owner, name and field of every setting, each once; the owner is `common` if several services read it."""
    seen = set()
    for name, field in CommonSettings.model_fields.items():
        seen.add(name)
        yield "common", name, field
    for owner, settings_class in CLASSES.items():
        for name, field in settings_class.model_fields.items():
            if name not in seen:
                seen.add(name)
                yield owner, name, field


def variable(name: str) -> str:
    return f"{PREFIX}{name.upper()}"


def effective_settings() -> list[Setting]:
    """Every setting. Raises the same ConfigurationError as the services."""
    loaded = {owner: settings.load(settings_class) for owner, settings_class in CLASSES.items()}
    loaded["common"] = loaded["this machine"]
    path = env_file()
    file = {name.upper() for name in dotenv_values(path)} if path else set()
    return [
        Setting(variable(name), _shown(getattr(loaded[owner], name)), _source(name, loaded[owner], file, path))
        for owner, name, _ in fields()
    ]


def _shown(value: object) -> object:
    if isinstance(value, SecretStr):
        return "(set)" if value.get_secret_value() else ""
    return str(value) if isinstance(value, Path) else value


def _source(name: str, loaded: CommonSettings, file: set[str], path: Path | None) -> str:
    names = {key.upper() for key in os.environ}
    if variable(name) in names:
        return "environment"
    if f"{variable(name)}_FILE" in names and isinstance(getattr(loaded, name), SecretStr):
        return f"file {os.environ[f'{variable(name)}_FILE']}"
    if variable(name) in file:
        return f"file {path}"
    return f"profile {loaded.profile}" if name in PROFILES[loaded.profile] else "default"

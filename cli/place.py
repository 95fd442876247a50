"""Where an installation is on this machine, and how to reach its API.

Verbs that a person or a script calls often need only this. It reads the few settings itself, because loading the
classes of all settings takes most of such a verb's time. `tests/unit/test_cli_place.py` compares the two.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shared.env_file import env_file, text_named_by

if TYPE_CHECKING:
    from cli.settings import LocalSettings

PREFIX = "VASHSENDER_"
DEFAULT_PORT = "8700"
_USUAL_PORT = re.compile("[1-9][0-9]{3}")


@dataclass(frozen=True, slots=True)
class Place:
    """One installation, as the command reaches it."""

    #: Folder of everything that it writes on this machine, absolute.
    home: Path
    #: Folder of the log files, absolute.
    logs: Path
    #: The API of this installation.
    api_url: str
    #: The API that the command speaks to; empty: this installation's.
    url: str
    #: The key for that API; empty: this installation's, in a file.
    api_key: str

    @property
    def run_dir(self) -> Path:
        return self.home / "run"

    @property
    def secrets_dir(self) -> Path:
        return self.home / "secrets"


def place() -> Place:
    """The installation that the settings name. Raises ConfigurationError."""
    given = _given()
    port = given.get("API_PORT", given.get("BASE_PORT", DEFAULT_PORT))
    if not _USUAL_PORT.fullmatch(port):
        from cli.settings import local_settings  # says what is wrong

        return of(local_settings())
    host = given.get("HTTP_HOST", "127.0.0.1")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    home = Path(given.get("VAR_DIR", "var")).absolute()
    return Place(
        home=home,
        logs=Path(given["LOG_DIR"]).absolute() if "LOG_DIR" in given else home / "log",
        api_url=f"http://{f'[{host}]' if ':' in host else host}:{port}",
        url=given.get("URL", ""),
        api_key=given.get("API_KEY", ""),
    )


def of(config: "LocalSettings") -> Place:
    """The same, from settings that are loaded."""
    return Place(config.home, config.logs, config.api_url, config.url, config.api_key.get_secret_value())


def _given() -> Mapping[str, str]:
    """The settings that are set, without their prefix: in the environment, in a secret's file, in the settings file."""
    found = _ours(os.environ)
    if "API_KEY" not in found and (key := text_named_by(f"{PREFIX}API_KEY_FILE")) is not None:
        found["API_KEY"] = key
    file = env_file()
    if file is None:
        return found
    from dotenv import dotenv_values  # only where there is a file

    lines = dotenv_values(file, encoding="utf8")
    return {**_ours({name: value for name, value in lines.items() if value is not None}), **found}


def _ours(values: Mapping[str, str]) -> dict[str, str]:
    """Names of settings count in any case."""
    return {
        name.upper().removeprefix(PREFIX): value for name, value in values.items() if name.upper().startswith(PREFIX)
    }

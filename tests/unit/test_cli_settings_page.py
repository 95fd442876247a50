"""docs/settings.md documents every setting with its default and purpose, and no other."""

import re
from collections.abc import Iterator
from pathlib import Path

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from cli.effective import fields, variable
from shared.settings import PROFILES

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"
COMMAND_ONLY = {"VASHSENDER_AMQP_ADMIN_URL", "VASHSENDER_ENV_FILE"}


def rows() -> Iterator[str]:
    """The expected row of each setting."""
    for _, name, field in fields():
        yield f"| `{variable(name)}` | {default(name, field)} | {field.description} |"


def default(name: str, field: FieldInfo) -> str:
    value = field.default.get_secret_value() if isinstance(field.default, SecretStr) else field.default
    if name in PROFILES["medium"]:
        return "by profile"
    if value is None or value == "":
        return "none"
    if isinstance(value, float):
        return f"`{value:.12g}`"
    return f"`{value}`"


def test_every_setting_is_documented_correctly() -> None:
    page = PAGE.read_text()
    missing = [row for row in rows() if row not in page]
    assert not missing, "docs/settings.md lacks these rows:\n" + "\n".join(missing)


def test_only_existing_settings_are_documented() -> None:
    documented = set(re.findall(r"^\| `(VASHSENDER_\w+)`", PAGE.read_text(), re.MULTILINE))
    assert documented == {variable(name) for _, name, _ in fields()} | COMMAND_ONLY


def test_the_profiles_are_documented_correctly() -> None:
    page = PAGE.read_text()
    for name in PROFILES["medium"]:
        values = " | ".join(str(PROFILES[profile][name]) for profile in ("low", "medium", "high"))
        assert f"| `{variable(name)}` | {values} |" in page

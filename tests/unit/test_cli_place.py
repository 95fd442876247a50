"""The few settings that short verbs read by themselves are those that the settings classes read."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cli.place import of, place
from cli.settings import local_settings
from shared.errors import ConfigurationError

VALUES = {
    "VASHSENDER_VAR_DIR": ["var", "/srv/vs", "a b", ""],
    "vashsender_var_dir": ["/srv/lower"],
    "VASHSENDER_LOG_DIR": ["/var/log/vs", "log"],
    "VASHSENDER_HTTP_HOST": ["0.0.0.0", "::", "::1", "10.0.0.5"],
    "VASHSENDER_API_PORT": ["9000", "80", "09000", "0", "99999", "x", ""],
    "VASHSENDER_BASE_PORT": ["9100", "70", "64000", "65001", "y"],
    "VASHSENDER_URL": ["https://mail.example.com/", ""],
    "VASHSENDER_API_KEY": ["a-key", ""],
    "VASHSENDER_API_KEY_FILE": ["key-file"],
}


@st.composite
def environments(draw: st.DrawFn) -> dict[str, str]:
    chosen = draw(st.lists(st.sampled_from(sorted(VALUES)), unique=True, max_size=4))
    return {name: draw(st.sampled_from(VALUES[name])) for name in chosen}


@given(environments(), environments())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_both_read_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, environment: dict[str, str], in_file: dict[str, str]
) -> None:
    (tmp_path / "key-file").write_text("key of a file\n")
    file = tmp_path / "settings.env"
    file.write_text("".join(f"{name}='{value}'\n" for name, value in in_file.items()))
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path)
        for name in [name for name in os.environ if name.upper().startswith("VASHSENDER_")]:
            patch.delenv(name)
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setenv("VASHSENDER_ENV_FILE", str(file))
        try:
            whole = of(local_settings())
        except ConfigurationError:
            return  # a port that only services use may be wrong: short verbs work nevertheless
        assert place() == whole


def test_a_wrong_port_of_the_api_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VASHSENDER_API_PORT", "many")
    with pytest.raises(ConfigurationError, match="VASHSENDER_API_PORT"):
        place()

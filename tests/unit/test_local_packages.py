"""Packages: found by a file, and installed only by a user who may."""

import subprocess
import sys
from pathlib import Path

import pytest

from cli.local import packages


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine with nothing installed, and an ordinary user without sudo."""
    monkeypatch.setattr(packages, "PROOFS", {"rabbitmq-server": str(tmp_path.relative_to("/") / "none")})
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("shutil.which", lambda program: "/usr/bin/apt-get" if program == "apt-get" else None)


def test_a_package_is_found_by_a_file_of_any_version(tmp_path: Path) -> None:
    assert packages.missing(["postgresql"], tmp_path) == ["postgresql"]
    (tmp_path / "usr/lib/postgresql/17/bin").mkdir(parents=True)
    (tmp_path / "usr/lib/postgresql/17/bin/postgres").touch()
    assert packages.missing(["postgresql", "rabbitmq-server"], tmp_path) == ["rabbitmq-server"]


@pytest.mark.usefixtures("bare_machine")
def test_a_user_who_may_not_install_sees_what_to_run() -> None:
    with pytest.raises(packages.PackagesMissingError) as error:
        packages.ensure(["rabbitmq-server"])
    as_root, without = str(error.value).splitlines()
    assert as_root == f"missing: rabbitmq-server; run as root: sh {packages.INSTALLER} rabbitmq-server"
    assert without.startswith("Without root: give it a broker that runs: export VASHSENDER_AMQP_URL=amqp://")
    assert error.value.exit_code == 69
    assert packages.INSTALLER.stat().st_mode & 0o111


@pytest.mark.usefixtures("bare_machine")
@pytest.mark.parametrize(
    ("kernel", "release", "name"),
    [
        ("Linux", {"PRETTY_NAME": "Fedora Linux 43 (Workstation Edition)"}, "Fedora Linux 43 (Workstation Edition)"),
        ("Linux", None, "Linux"),
        ("Darwin", None, "macOS 15.1"),
    ],
)
def test_a_system_without_apt_is_told_the_settings_to_give(
    monkeypatch: pytest.MonkeyPatch, kernel: str, release: dict[str, str] | None, name: str
) -> None:
    def os_release() -> dict[str, str]:
        if release is None:
            raise OSError
        return release

    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr("platform.system", lambda: kernel)
    monkeypatch.setattr("platform.mac_ver", lambda: ("15.1", ("", "", ""), "arm64"))
    monkeypatch.setattr("platform.freedesktop_os_release", os_release)
    with pytest.raises(packages.PackagesMissingError) as error:
        packages.ensure(["rabbitmq-server"])
    message = str(error.value)
    assert message.startswith("missing: rabbitmq-server. VashSender installs packages with apt-get, and this machine (")
    assert f"({name}) has none." in message
    assert "export VASHSENDER_AMQP_URL=amqp://" in message
    assert "export VASHSENDER_DATABASE_URL=postgresql://" in message
    assert error.value.exit_code == 69


def test_nothing_is_run_when_nothing_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "PROOFS", {"python": sys.executable.lstrip("/")})
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("ran something"))
    assert packages.ensure(["python"]) == []


def test_an_unknown_package_is_a_usage_error() -> None:
    command = [sys.executable, "-m", "cli.local.packages", "left-pad"]
    done = subprocess.run(command, cwd=packages.INSTALLER.parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 64
    assert "unknown packages: left-pad" in done.stderr

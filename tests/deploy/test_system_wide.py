"""VASHSENDER_USER: root starts VashSender for the whole machine, and no process of it runs as root.

Needs root. Creates a user, and a copy of the program with Debian's own Python which that user can read."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from cli.local import packages
from tests.support.command import Command

pytestmark = pytest.mark.timeout(600)

PROJECT = Path(__file__).parents[2]
NEEDED = ("cli", "deploy", "requirements", "services", "shared", "LICENSE", "README.md", "pyproject.toml")
USER = "vashsender-try"


@dataclass
class Installed(Command):
    """The command of that copy."""

    program: Path = Path("vashsender")

    def line(self, *arguments: str) -> list[str]:
        return [str(self.program), *arguments]


@pytest.fixture
def command() -> Iterator[Installed]:
    if os.geteuid() != 0:
        pytest.fail("changing to another user needs root: sudo make test-deploy")
    packages.ensure(["rabbitmq-server"])
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vashsender-", dir="/var/tmp")))
        folder.chmod(0o755)
        python = _installed(folder / "program")
        subprocess.run(["useradd", "--system", "--user-group", "--shell", "/usr/sbin/nologin", USER], check=True)
        stack.callback(subprocess.run, ["userdel", USER], check=True)
        command = Installed(folder, {"VASHSENDER_USER": USER}, program=python.with_name("vashsender"))
        command.settings["VASHSENDER_LOG_DIR"] = str(folder / "log")
        stack.callback(command, "stop")
        yield command


def test_root_starts_it_but_no_process_runs_as_root(command: Installed) -> None:
    nobody = command("start", settings={"VASHSENDER_USER": "nobody-at-all"})
    assert (nobody.returncode, nobody.stdout) == (78, "")
    assert nobody.stderr.startswith("vashsender: VASHSENDER_USER: there is no user nobody-at-all. Create it: useradd")

    command.ok("demo")
    owners = {psutil.Process(pid).username() for pid in command.pids().values()}
    assert owners == {USER}
    supervisord = psutil.Process(int((command.var / "run" / "supervisord.pid").read_text()))
    assert {process.username() for process in (supervisord, *supervisord.children(recursive=True))} == {USER}
    command.ok("scale", "sender=1")
    command.ok("health-check", "--fix")
    written = [path for folder in (command.var, command.folder / "log") for path in (folder, *folder.rglob("*"))]
    assert {path.lstat().st_uid for path in written} == {supervisord.uids().real}
    assert [str(path) for path in written if path.lstat().st_mode & 0o077] == []
    command.ok("stop")
    assert command.processes() == []

    noted = [json.loads(line) for line in (command.folder / "log" / "control.log").read_text().splitlines()]
    assert [entry["action"] for entry in noted] == ["demo", "scale sender=1", "health-check --fix", "stop"]
    assert {entry["instance"] for entry in noted} == {os.environ.get("SUDO_USER", "root")}

    command.var.rename(command.folder / "theirs")
    command.var.mkdir()
    refused = command("start")
    assert refused.returncode == 78
    assert f"chown -R {USER}: {command.var}" in refused.stderr


def _installed(folder: Path) -> Path:
    """Copies the program into a new environment that all users can read. Returns its Python."""
    for name in NEEDED:
        source = PROJECT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    shutil.copytree(PROJECT / "examples", folder / "examples")
    python = folder / ".venv" / "bin" / "python"
    subprocess.run(["/usr/bin/python3", "-m", "venv", folder / ".venv"], check=True)
    pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    subprocess.run([*pip, "--require-hashes", "-r", str(PROJECT / "requirements" / "run.txt")], check=True)
    subprocess.run([*pip, "setuptools>=77"], check=True)
    subprocess.run([*pip, "--no-deps", "--no-build-isolation", "-e", str(folder)], check=True)
    subprocess.run(["chmod", "-R", "go+rX", folder], check=True)
    return python

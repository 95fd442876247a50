"""A release: the archives that `make release` builds install and run where there is no clone."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts import release
from tests.support.broker import BrokerVhost
from tests.support.command import Command

pytestmark = [pytest.mark.more, pytest.mark.timeout(600)]

LAST_LINE = "1000 recipients: 995 sent, 5 failed, 0 lost, 0 duplicated"


class Installed(Command):
    """The command of another environment."""

    executable: Path

    def line(self, *arguments: str) -> list[str]:
        return [str(self.executable), *arguments]


@pytest.fixture(scope="module")
def executable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`vashsender` of a new environment with the wheel and the locked dependencies."""
    folder = tmp_path_factory.mktemp("release")
    archives = release.build(folder / "dist")
    return release.install(archives.wheel, folder / "environment")


@pytest.fixture
def installed(executable: Path, tmp_path: Path, broker_vhost: BrokerVhost) -> Iterator[Installed]:
    command = Installed(
        tmp_path,
        {"VASHSENDER_AMQP_URL": broker_vhost.services_url, "VASHSENDER_AMQP_ADMIN_URL": broker_vhost.admin_url},
    )
    command.executable = executable
    try:
        yield command
    finally:
        command("stop")


def test_it_says_which_release_it_is(executable: Path, tmp_path: Path) -> None:
    told = subprocess.run([executable, "--version"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == release.version()


def test_the_demo_runs_without_a_clone(installed: Installed) -> None:
    done = installed("demo", seconds=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == LAST_LINE
    page = installed.ok("campaign", "list").splitlines()
    assert [line.split("\t")[2] for line in page] == ["Status", "finished"]


def test_the_files_of_private_servers_come_along(executable: Path) -> None:
    python = executable.with_name("python")
    script = (
        "from cli.local import broker_files, packages, postgres\n"
        "print(*(path.is_file() for path in (broker_files.TEMPLATE, postgres.TEMPLATE, packages.INSTALLER)))\n"
    )
    told = subprocess.run([python, "-c", script], cwd="/", capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["True"] * 3

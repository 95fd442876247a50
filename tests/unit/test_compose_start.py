"""deploy/compose/start and demo, with a `docker` that only notes what it is asked: what is made, and what is kept."""

import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from tests.support import compose

DOCKER = """#!/bin/sh
echo "$*" >> "$NOTES"
case "$*" in
    *" access") mkdir -p -m 700 secrets ;;
    *"key create"*) [ -z "$NO_KEY" ] || exit 69; echo a-key ;;
    *"exec -T sender"*) [ -n "$RELAYS" ] || exit 1; echo "$RELAYS" ;;
    *"campaign create"*) echo an-id ;;
esac
"""
MAILBOX = "smtp://mailbox:8703?tls=none"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "compose"
    folder.mkdir()
    for name in ("start", "demo", "env.example", "mailbox.relays"):
        shutil.copy(compose.FOLDER / name, folder / name)
    (tmp_path / "docker").write_text(DOCKER)
    (tmp_path / "docker").chmod(0o755)
    return folder


def run(folder: Path, name: str, *arguments: str, **given: str) -> "subprocess.CompletedProcess[str]":
    environment = {
        "PATH": f"{folder.parent}:/usr/bin:/bin",
        "NOTES": str(folder.parent / "notes"),
        "NO_KEY": "",
        "RELAYS": "",
        **given,
    }
    return subprocess.run(
        [folder / name, *arguments], cwd="/", env=environment, capture_output=True, text=True, check=False
    )


def asked(folder: Path) -> list[str]:
    notes = folder.parent / "notes"
    found = notes.read_text().splitlines()
    notes.unlink()
    return [line.removeprefix("compose ") for line in found if line != "compose version"]


def test_the_first_start_makes_everything_and_the_next_keeps_it(folder: Path) -> None:
    done = run(folder, "start", "--scale", "sender=4")
    assert done.returncode == 0, done.stderr
    build, access, up, key = asked(folder)
    assert build == "build access"
    assert access.startswith("run --rm --user ")
    assert up == "up --detach --wait --scale sender=4"
    assert "key create" in key
    for path in (folder / ".env", folder / "secrets" / "api_key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (folder / "secrets" / "api_key").read_text() == "a-key\n"
    assert f"http://127.0.0.1:8700 (key: {folder}/secrets/api_key)" in done.stderr

    (folder / ".env").write_text("VASHSENDER_IMAGE=mine:1\nVASHSENDER_API_PORT=9000\n")
    (folder / "secrets" / "api_key").write_text("my-key")
    again = run(folder, "start")
    assert [line.split()[0] for line in asked(folder)] == ["run", "up"], "no build, no key"
    assert (folder / "secrets" / "api_key").read_text() == "my-key"
    assert "http://127.0.0.1:9000 " in again.stderr


def test_a_failed_start_leaves_no_half_key_and_can_be_repeated(folder: Path) -> None:
    assert run(folder, "start", NO_KEY="yes").returncode == 69
    assert not (folder / "secrets" / "api_key").exists()
    assert run(folder, "start").returncode == 0
    assert (folder / "secrets" / "api_key").read_text() == "a-key\n"


def test_two_starts_at_once_make_no_two_sets_of_secrets(folder: Path) -> None:
    (folder / ".starting").mkdir()
    done = run(folder, "start")
    assert done.returncode == 75
    assert f"rmdir {folder}/.starting" in done.stderr
    assert asked(folder) == []


def test_without_docker_it_says_what_is_needed(folder: Path) -> None:
    (folder.parent / "docker").write_text("#!/bin/sh\nexit 1\n")
    done = run(folder, "start")
    assert done.returncode == 69
    assert "Compose 2.20" in done.stderr
    assert not (folder / ".env").exists()


def test_the_example_goes_to_the_mailbox_only(folder: Path) -> None:
    done = run(folder, "demo", RELAYS=MAILBOX)
    assert done.returncode == 0, done.stderr
    assert [line.partition("demo campaign ")[2] for line in asked(folder)[1:]] == [
        "create /examples/spring-news --send",
        "watch an-id --timeout 600",
    ]
    refused = run(folder, "demo", RELAYS="smtp://user:pw@relay.example.com")
    assert refused.returncode == 78
    assert "made-up addresses" in refused.stderr
    assert "pw" not in refused.stderr
    assert len(asked(folder)) == 1
    assert run(folder, "demo").returncode == 69

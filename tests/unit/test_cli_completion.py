"""Completion in the shell: what a person may type next, and nothing else on the terminal."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).with_name("vashsender")
WORDS = {"create", "import", "send", "list", "show", "recipients", "watch", "pause", "resume", "cancel"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a settings file that would cause a message."""
    (tmp_path / ".env").write_text("VASHSENDER_LOG_LEVEL=nonsense\n")
    return tmp_path


@pytest.mark.parametrize(
    ("shell", "asked"),
    [
        ("bash", {"COMP_WORDS": "vashsender campaign ", "COMP_CWORD": "2"}),
        ("zsh", {"_TYPER_COMPLETE_ARGS": "vashsender campaign "}),
        ("fish", {"_TYPER_COMPLETE_ARGS": "vashsender campaign ", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}),
    ],
)
def test_each_shell_gets_the_verbs(folder: Path, shell: str, asked: dict[str, str]) -> None:
    environment = {"PATH": os.environ["PATH"], "_VASHSENDER_COMPLETE": f"complete_{shell}", **asked}
    done = subprocess.run([COMMAND], cwd=folder, env=environment, capture_output=True, text=True, check=True)
    assert {word for word in WORDS if word in done.stdout} == WORDS
    assert done.stderr == ""


def test_the_script_for_bash_completes(folder: Path) -> None:
    script = """
    eval "$(vashsender --show-completion)"
    COMP_WORDS=(vashsender inspect qu)
    COMP_CWORD=2
    _vashsender_completion vashsender
    echo "${COMPREPLY[*]}"
    """
    environment = {"PATH": f"{COMMAND.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "queues\n"

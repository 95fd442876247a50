"""Installs an earlier release in a separate environment, as an operator has it before an update."""

import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
from io import BytesIO
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("services", "shared", "cli")
RUN_TIME = "requirements/run.txt"


def latest_release() -> tuple[str, str]:
    """Version and commit of the newest release in `releases.toml`."""
    commits: dict[str, str] = tomllib.loads((ROOT / "releases.toml").read_text())["commits"]
    return list(commits.items())[-1]


def install(commit: str, folder: Path) -> str:
    """Installs a commit into a new environment in `folder`. Returns the path of its Python.

    Uses the dependencies of the current environment; pip installs those whose version differs."""
    venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)
    python = str(folder / "bin" / "python")
    [packages] = folder.glob("lib/python*/site-packages")
    with tarfile.open(fileobj=BytesIO(_git("archive", commit, *PACKAGES))) as archive:
        # Python 3.11.2, which Debian 12 has, knows no filters yet.
        archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, _path: member)
        archive.extractall(packages)
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    theirs, ours = _pins(_git("show", f"{commit}:{RUN_TIME}").decode()), _pins((ROOT / RUN_TIME).read_text())
    others = [text for pin, text in theirs.items() if pin not in ours]
    if others:
        (folder / "run.txt").write_text("".join(others))
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--python", python]
        command = [*pip, "install", "--no-deps", "--require-hashes", "-r", str(folder / "run.txt")]
        subprocess.run(command, check=True)
    return python


def _pins(requirements: str) -> dict[str, str]:
    """Each pinned package with its version, such as `rich==14.0.0`, and its lines, with their hashes."""
    return {text.split()[0]: text for text in re.split(r"^(?=\w)", requirements, flags=re.MULTILINE) if text}


def _git(*arguments: str) -> bytes:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=False)
    assert done.returncode == 0, (
        f"git {' '.join(arguments)}: {done.stderr.decode()}\nIn a shallow clone, run this first: git fetch --unshallow"
    )
    return done.stdout

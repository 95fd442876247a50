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

    Uses the dependencies of the current environment if all versions match; otherwise pip installs them."""
    venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)
    python = str(folder / "bin" / "python")
    [packages] = folder.glob("lib/python*/site-packages")
    with tarfile.open(fileobj=BytesIO(_git("archive", commit, *PACKAGES))) as archive:
        archive.extractall(packages, filter="data")
    theirs = _git("show", f"{commit}:{RUN_TIME}").decode()
    if _pins(theirs) <= _pins((ROOT / RUN_TIME).read_text()):
        (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    else:
        (folder / "run.txt").write_text(theirs)
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--python", python]
        subprocess.run([*pip, "install", "--require-hashes", "-r", str(folder / "run.txt")], check=True)
    return python


def _pins(requirements: str) -> set[str]:
    return set(re.findall(r"^([\w.\[\]-]+==[\w.+!-]+)", requirements, re.MULTILINE))


def _git(*arguments: str) -> bytes:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=False)
    assert done.returncode == 0, (
        f"git {' '.join(arguments)}: {done.stderr.decode()}\nIn a shallow clone, run this first: git fetch --unshallow"
    )
    return done.stdout

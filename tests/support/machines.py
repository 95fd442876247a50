"""Debian file trees to try a deployment in, made by debootstrap from this machine's own Debian mirror.

Needs root. A tree is kept as a tarball under `var/machines` and unpacked for each use, so that only the first is slow.
"""

import fcntl
import hashlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from cli.local import packages

KEPT = Path(__file__).parents[2] / "var" / "machines"
BUILD_SECONDS = 600


@contextmanager
def debian(suite: str, *included: str) -> Iterator[Path]:
    """A fresh tree of Debian `suite` ("bookworm", "trixie") with `included` packages, removed afterwards.

    Nothing is mounted in it and no service of it runs. Raises `CalledProcessError` where debootstrap fails.
    """
    tree = Path(mkdtemp(prefix=f"{suite}-", dir=_kept_folder()))
    try:
        subprocess.run(["tar", "-xf", _tarball(suite, included), "-C", tree], check=True)
        tree.chmod(0o755)
        yield tree
    finally:
        shutil.rmtree(tree, ignore_errors=True)


def _tarball(suite: str, included: tuple[str, ...]) -> Path:
    names = ",".join(sorted(included))
    kept = _kept_folder() / f"{suite}-{hashlib.sha256(names.encode()).hexdigest()[:12]}.tar"
    with kept.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            _bootstrap(suite, names, kept)
    return kept


def _bootstrap(suite: str, names: str, kept: Path) -> None:
    packages.ensure(["debootstrap"])
    tree, draft = Path(mkdtemp(prefix=f"{suite}-new-", dir=_kept_folder())), kept.with_suffix(".draft")
    include = [f"--include={names}"] if names else []
    try:
        subprocess.run(
            ["debootstrap", "--variant=minbase", *include, suite, tree, *_mirror()],
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=BUILD_SECONDS,
        )
        shutil.rmtree(tree / "var/cache/apt/archives", ignore_errors=True)
        subprocess.run(["tar", "-cf", draft, "-C", tree, "."], check=True)
        draft.replace(kept)
    finally:
        shutil.rmtree(tree, ignore_errors=True)
        draft.unlink(missing_ok=True)


def _mirror() -> list[str]:
    """The mirror this machine's apt reads, which may be the only one it reaches; none: debootstrap's own choice."""
    sources = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
    texts = "\n".join(path.read_text() for path in sources if path.is_file())
    found = re.search(r"^(?:URIs:|deb(?: \[.*?\])?)\s+(\S+/debian)/?(?:\s|$)", texts, re.MULTILINE)
    return [found.group(1)] if found else []


def _kept_folder() -> Path:
    KEPT.mkdir(parents=True, exist_ok=True)
    return KEPT

"""Debian file trees for tests of deployments, made by debootstrap from the mirror that this machine uses.

Needs root. Each tree is cached as a tarball under `var/machines`, so only the first use is slow.
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

CACHE = Path(__file__).parents[2] / "var" / "machines"
BUILD_SECONDS = 600


@contextmanager
def debian(suite: str, *included: str) -> Iterator[Path]:
    """A new tree of Debian `suite` ("bookworm", "trixie") with `included` packages, removed afterwards.

    Nothing is mounted in it and none of its services run. Raises `CalledProcessError` if debootstrap fails.
    """
    tree = Path(mkdtemp(prefix=f"{suite}-", dir=_cache_folder()))
    try:
        subprocess.run(["tar", "-xf", _tarball(suite, included), "-C", tree], check=True)
        tree.chmod(0o755)
        yield tree
    finally:
        shutil.rmtree(tree, ignore_errors=True)


def _tarball(suite: str, included: tuple[str, ...]) -> Path:
    names = ",".join(sorted(included))
    kept = _cache_folder() / f"{suite}-{hashlib.sha256(names.encode()).hexdigest()[:12]}.tar"
    with kept.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            _bootstrap(suite, names, kept)
    return kept


def _bootstrap(suite: str, names: str, kept: Path) -> None:
    packages.ensure(["debootstrap"])
    tree, draft = Path(mkdtemp(prefix=f"{suite}-new-", dir=_cache_folder())), kept.with_suffix(".draft")
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
    """The mirror in this machine's apt sources, maybe the only one it can reach. Empty: debootstrap's default."""
    sources = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
    texts = "\n".join(path.read_text() for path in sources if path.is_file())
    found = re.search(r"^(?:URIs:|deb(?: \[.*?\])?)\s+(\S+/debian)/?(?:\s|$)", texts, re.MULTILINE)
    return [found.group(1)] if found else []


def _cache_folder() -> Path:
    CACHE.mkdir(parents=True, exist_ok=True)
    return CACHE

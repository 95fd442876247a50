"""Programs from Debian packages that are only unpacked: nothing is installed, and no user's mail is touched.

Needs Debian or Ubuntu and `apt-get update`; each package is fetched once per checkout.
"""

import fcntl
import os
import subprocess
from pathlib import Path

CACHE = Path(__file__).parents[3] / "var" / "cache"
TIMEOUT_SECONDS = 120
LIBRARIES = ("usr/lib/postfix", "usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu")


def postfix_tree() -> Path:
    """Postfix, with the libraries that this machine lacks."""
    return _unpacked("postfix", with_libraries_of="usr/lib/postfix/sbin/smtpd")


def exim_tree() -> Path:
    """Exim, with the libraries that this machine lacks."""
    return _unpacked("exim4-daemon-light", with_libraries_of="usr/sbin/exim4")


def nss_wrapper_tree() -> Path:
    """The library that shows a program accounts which this machine lacks."""
    return _unpacked("libnss-wrapper")


def fakeroot_tree() -> Path:
    """fakeroot and its library."""
    return _unpacked("fakeroot", "libfakeroot")


def _unpacked(*packages: str, with_libraries_of: str | None = None) -> Path:
    cache = CACHE / packages[0]
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        tree = cache / "root"
        if not (cache / "complete").exists():
            for package in packages:
                _unpack(package, tree)
            if with_libraries_of is not None and _lacks_libraries(tree, with_libraries_of):
                for package in _library_packages(packages[0]):
                    _unpack(package, tree)
            (cache / "complete").touch()
        return tree


def environment(tree: Path) -> dict[str, str]:
    """Environment in which programs of the tree find their libraries."""
    return {**os.environ, "LD_LIBRARY_PATH": ":".join(str(tree / folder) for folder in LIBRARIES)}


def _unpack(package: str, tree: Path) -> None:
    _run("apt-get", "download", package, folder=tree.parent)
    for archive in tree.parent.glob("*.deb"):
        _run("dpkg", "-x", str(archive), str(tree), folder=tree.parent)
        archive.unlink()


def _lacks_libraries(tree: Path, program: str) -> bool:
    command = ["ldd", str(tree / program)]
    return b"not found" in subprocess.run(command, env=environment(tree), capture_output=True, check=True).stdout


def _library_packages(package: str) -> list[str]:
    listing = _run("apt-cache", "depends", package, folder=CACHE).splitlines()
    return [line.split()[-1] for line in listing if line.strip().startswith("Depends: lib")]


def _run(*command: str, folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip()}")
    return done.stdout

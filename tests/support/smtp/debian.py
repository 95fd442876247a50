"""Postfix out of its Debian package, unpacked beside the project: nothing is installed, no user's mail is touched."""

import fcntl
import os
import subprocess
from pathlib import Path

CACHE = Path(__file__).parents[3] / "var" / "cache" / "postfix"
TIMEOUT_SECONDS = 120
LIBRARIES = ("usr/lib/postfix", "usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu")


def postfix_tree() -> Path:
    """The unpacked package, fetched with apt-get once per checkout. Needs Debian or Ubuntu and `apt-get update`."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        tree = CACHE / "root"
        if not (CACHE / "complete").exists():
            _unpack("postfix", tree)
            if _lacks_libraries(tree):
                for package in _library_packages():
                    _unpack(package, tree)
            (CACHE / "complete").touch()
        return tree


def environment(tree: Path) -> dict[str, str]:
    """For programs of the tree: they find their libraries there."""
    return {**os.environ, "LD_LIBRARY_PATH": ":".join(str(tree / folder) for folder in LIBRARIES)}


def _unpack(package: str, tree: Path) -> None:
    _run("apt-get", "download", package)
    for archive in CACHE.glob("*.deb"):
        _run("dpkg", "-x", str(archive), str(tree))
        archive.unlink()


def _lacks_libraries(tree: Path) -> bool:
    smtpd = str(tree / "usr/lib/postfix/sbin/smtpd")
    return b"not found" in subprocess.run(["ldd", smtpd], env=environment(tree), capture_output=True, check=True).stdout


def _library_packages() -> list[str]:
    listing = _run("apt-cache", "depends", "postfix").splitlines()
    return [line.split()[-1] for line in listing if line.strip().startswith("Depends: lib")]


def _run(*command: str) -> str:
    done = subprocess.run(command, cwd=CACHE, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip()}")
    return done.stdout

"""The Debian packages that private servers and tests need: which are missing, and how to install them.

`python -m cli.local.packages PACKAGE...` installs the missing ones.
"""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from cli.local import LocalError

INSTALLER = (Path(__file__).with_name("files") / "install-packages").resolve()
OUTPUT_LINES_SHOWN = 5
GIVEN = "Give it a broker that runs: export VASHSENDER_AMQP_URL=amqp://USER:PASSWORD@HOST:5672/VHOST"

PROOFS: Mapping[str, str] = {
    "rabbitmq-server": "usr/lib/rabbitmq/bin/rabbitmq-server",
    "postgresql": "usr/lib/postgresql/*/bin/postgres",
    "pgbouncer": "usr/sbin/pgbouncer",
    "opendkim": "usr/sbin/opendkim",
    "prometheus": "usr/bin/promtool",
    "libfaketime": "usr/lib/*/faketime/libfaketimeMT.so.1",
    "chromium": "usr/bin/chromium",
    "debootstrap": "usr/sbin/debootstrap",
    "systemd-container": "usr/bin/systemd-nspawn",
    "buildah": "usr/bin/buildah",
    "docker.io": "usr/sbin/dockerd",
    "etcd-server": "usr/bin/etcd",
    "golang-go": "usr/bin/go",
    "npm": "usr/bin/npm",
    "gcc": "usr/bin/gcc",
    "python3-dev": "usr/include/python3.*/Python.h",
}
"""A file that proves that a package is installed: faster than dpkg, and finds other installations too."""


class PackagesMissingError(LocalError):
    """Packages are missing and this user cannot install them."""


def missing(packages: Iterable[str], root: Path = Path("/")) -> list[str]:
    """The packages that this machine does not have."""
    return [package for package in packages if not any(root.glob(PROOFS[package]))]


def ensure(packages: Iterable[str]) -> list[str]:
    """Installs missing packages without starting their services, and returns their names.

    Raises PackagesMissingError, which says what to run, if this user may not install or apt fails."""
    wanted = missing(packages)
    if not wanted:
        return []
    by_hand = f"sh {INSTALLER} {' '.join(wanted)}"
    if shutil.which("apt-get") is None:
        raise PackagesMissingError(_elsewhere(wanted))
    done = subprocess.run(
        [*_as_root(by_hand, wanted), "sh", str(INSTALLER), *wanted],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    still = missing(wanted)
    if done.returncode or still:
        last = "\n".join(done.stdout.splitlines()[-OUTPUT_LINES_SHOWN:])
        raise PackagesMissingError(f"apt could not install {', '.join(still or wanted)}:\n{last}")
    return wanted


def _elsewhere(wanted: list[str]) -> str:
    """What to do on a system without apt: nothing need be installed where broker and database are given by URL."""
    reason = f"VashSender installs packages with apt-get, and this machine ({_system()}) has none."
    lines = [f"missing: {', '.join(wanted)}. {reason}"]
    if "rabbitmq-server" in wanted:
        lines += [
            GIVEN,
            "With Docker, for example: docker run --detach --publish 127.0.0.1:5672:5672 rabbitmq:4.1, then",
            "  export VASHSENDER_AMQP_URL=amqp://guest:guest@127.0.0.1:5672/",
        ]
    lines.append("The database is SQLite, without set-up. Another: export VASHSENDER_DATABASE_URL=postgresql://...")
    return "\n".join(lines)


def _system() -> str:
    if platform.system() == "Darwin":
        return f"macOS {platform.mac_ver()[0]}".strip()
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system() or "another system"


def _as_root(by_hand: str, wanted: list[str]) -> list[str]:
    if os.geteuid() == 0:
        return []
    may_sudo = shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False)
    if may_sudo and may_sudo.returncode == 0:
        return ["sudo", "-n"]
    instead = f"\nWithout root: {GIVEN[0].lower()}{GIVEN[1:]}" if "rabbitmq-server" in wanted else ""
    raise PackagesMissingError(f"missing: {', '.join(wanted)}; run as root: {by_hand}{instead}")


def main() -> int:
    """Called by `make test`. Exits with 0 if all are installed, 64 for wrong usage, 69 if it cannot install them."""
    unknown = [name for name in sys.argv[1:] if name not in PROOFS]
    if unknown:
        sys.stderr.write(f"unknown packages: {', '.join(unknown)}; known: {', '.join(PROOFS)}\n")
        return 64
    try:
        installed = ensure(sys.argv[1:])
    except LocalError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    if installed:
        sys.stdout.write(f"installed: {', '.join(installed)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

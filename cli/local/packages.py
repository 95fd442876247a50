"""Debian packages that VashSender's private servers come from: which are missing, and how they get here.

`python -m cli.local.packages PACKAGE...` installs what is missing; done in no time when nothing is.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from cli.local import LocalError

INSTALLER = Path(__file__).parents[2] / "deploy" / "local" / "install-packages"
OUTPUT_LINES_SHOWN = 5

PROOFS: Mapping[str, str] = {
    "rabbitmq-server": "usr/lib/rabbitmq/bin/rabbitmq-server",
    "postgresql": "usr/lib/postgresql/*/bin/postgres",
    "opendkim": "usr/sbin/opendkim",
    "prometheus": "usr/bin/promtool",
    "libfaketime": "usr/lib/*/faketime/libfaketimeMT.so.1",
    "chromium": "usr/bin/chromium",
    "debootstrap": "usr/sbin/debootstrap",
    "systemd-container": "usr/bin/systemd-nspawn",
    "buildah": "usr/bin/buildah",
    "docker.io": "usr/sbin/dockerd",
    "golang-go": "usr/bin/go",
    "npm": "usr/bin/npm",
}
"""A file by which a package is known to be there: asking dpkg would take longer and miss what came another way."""


class PackagesMissingError(LocalError):
    """Packages are missing and may not be installed from here."""


def missing(packages: Iterable[str], root: Path = Path("/")) -> list[str]:
    """Those of `packages` that this machine does not have."""
    return [package for package in packages if not any(root.glob(PROOFS[package]))]


def ensure(packages: Iterable[str]) -> list[str]:
    """Install what is missing, so that no service of it runs. Gives what was installed.

    Raises `PackagesMissingError` saying what to run where this user may not install, or apt cannot.
    """
    wanted = missing(packages)
    if not wanted:
        return []
    by_hand = f"{INSTALLER} {' '.join(wanted)}"
    if shutil.which("apt-get") is None:
        raise PackagesMissingError(f"missing: {', '.join(wanted)}; this is no Debian, so install them your way")
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


def _as_root(by_hand: str, wanted: list[str]) -> list[str]:
    if os.geteuid() == 0:
        return []
    may_sudo = shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False)
    if may_sudo and may_sudo.returncode == 0:
        return ["sudo", "-n"]
    raise PackagesMissingError(f"missing: {', '.join(wanted)}; run as root: {by_hand}")


def main() -> int:
    """What `make test` calls. Exit codes: 0 all there, 64 usage, 69 cannot be installed."""
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

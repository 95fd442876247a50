"""Boots a Debian tree with VashSender and systemd in a container of systemd-nspawn.

The container has its own processes, its own systemd and only a loopback interface. Needs root.
"""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from tests.support.debian_tree import CACHE
from tests.support.running import name_of

ROOT = Path(__file__).parents[2]
HOME = Path("opt/vashsender")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BOOT_SECONDS = 300.0
POWER_OFF_SECONDS = 60.0
COMMAND_SECONDS = 400.0
POLL_SECONDS = 0.2
POWER_OFF = signal.SIGRTMIN + 4  # systemd(1), "Signals"


@dataclass(frozen=True, slots=True)
class Machine:
    """A booted container."""

    #: Its files, as this machine sees them.
    tree: Path
    #: Its process 1, by its pid outside.
    leader: int

    def run(self, *command: str, check: bool = True, text: str | None = None) -> str:
        """Runs a command in the container as root. Returns its stdout; fails with all output if `check` is on."""
        done = subprocess.run(
            ["nsenter", f"--target={self.leader}", "--all", "--", *command],
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            env={"PATH": PATH, "LANG": "C.UTF-8"},
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout.strip()

    def unit(self, name: str, what: str) -> str:
        """One property of a unit, such as MainPID."""
        return self.run("systemctl", "show", "--value", f"--property={what}", name)

    def wait(self, condition: Callable[[], object], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                journal = self.run("journalctl", "--no-pager", "--lines=60", "--output=cat", check=False)
                raise AssertionError(f"not within {seconds:g} s: {what}\n{journal}\n{self.logs()}")
            time.sleep(POLL_SECONDS)

    def logs(self) -> str:
        """The last lines of each of VashSender's logs."""
        files = sorted((self.tree / "var/log/vashsender").glob("*.log"))
        return "\n".join(f"== {path.name}\n" + "\n".join(path.read_text().splitlines()[-15:]) for path in files)


@contextmanager
def boot(tree: Path) -> Iterator[Machine]:
    """Boots a tree. Powers it off at the end."""
    console_log = tree.parent / f"{tree.name}.console"
    with console_log.open("wb") as console:
        container = subprocess.Popen(
            [
                "systemd-nspawn",
                "--quiet",
                "--boot",
                f"--directory={tree}",
                f"--machine=vashsender-{os.getpid()}",
                "--private-network",
                # Works without systemd or machined on this machine.
                "--register=no",
                "--keep-unit",
                "--resolv-conf=off",
            ],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
        )
    try:
        machine = Machine(tree, _leader(container, console_log))
        done = ("running", "degraded")
        machine.wait(
            lambda: machine.run("systemctl", "is-system-running", check=False) in done, BOOT_SECONDS, "the boot"
        )
        yield machine
    finally:
        _power_off(container)
        console_log.unlink()


def install(tree: Path) -> None:
    """Installs this working copy and its locked dependencies in /opt/vashsender of a tree that is not booted yet.

    This machine's pip fetches the dependencies, since the container has no network."""
    home = tree / HOME
    home.mkdir(parents=True)
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    there = b"\0".join(name for name in files.split(b"\0") if name and os.path.lexists(ROOT / name.decode()))
    packed = subprocess.run(
        ["tar", "--create", "--null", "--files-from=-"], cwd=ROOT, input=there, capture_output=True, check=True
    )
    subprocess.run(["tar", "--extract", "--directory", home], input=packed.stdout, check=True)
    inside = ["chroot", str(tree)]
    subprocess.run([*inside, "python3", "-m", "venv", f"/{HOME}/.venv"], check=True, env={"PATH": PATH})
    [packages] = (home / ".venv/lib").glob("python3*/site-packages")
    subprocess.run(["tar", "--extract", "--file", _dependencies(), "--directory", packages], check=True)
    pip = [*inside, f"/{HOME}/.venv/bin/python", "-m", "pip", "--quiet", "install"]
    subprocess.run(
        [*pip, "--no-index", "--no-deps", "--no-build-isolation", "--editable", f"/{HOME}"],
        check=True,
        env={"PATH": PATH, "PIP_ROOT_USER_ACTION": "ignore", "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )


def _dependencies() -> Path:
    """A cached tarball of the packages in requirements/run.txt."""
    requirements = ROOT / "requirements/run.txt"
    kept = CACHE / f"packages-{hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]}.tar"
    if not kept.exists():
        with TemporaryDirectory(dir=CACHE) as folder:
            pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input", "install"]
            subprocess.run(
                [*pip, "--target", folder, "--no-deps", "--require-hashes", "-r", requirements],
                check=True,
                env={**os.environ, "PIP_ROOT_USER_ACTION": "ignore"},
            )
            Path(folder).chmod(0o755)  # as site-packages must be
            draft = kept.with_suffix(".draft")
            subprocess.run(["tar", "--create", "--file", draft, "--directory", folder, "."], check=True)
            draft.replace(kept)
    return kept


def _leader(container: "subprocess.Popen[bytes]", console_log: Path) -> int:
    """Waits for process 1 of the container. Returns its pid."""
    deadline = time.monotonic() + BOOT_SECONDS
    while time.monotonic() < deadline and container.poll() is None:
        for child in psutil.Process(container.pid).children():
            if name_of(child) == "systemd":
                return child.pid
        time.sleep(POLL_SECONDS)
    raise AssertionError(f"systemd-nspawn did not boot: {console_log.read_text(errors='replace')}")


def _power_off(container: "subprocess.Popen[bytes]") -> None:
    if container.poll() is None:
        for child in psutil.Process(container.pid).children():
            child.send_signal(POWER_OFF)
        try:
            container.wait(POWER_OFF_SECONDS)
        except subprocess.TimeoutExpired:
            container.kill()  # its processes end with it
    container.wait()

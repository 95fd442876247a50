"""A Debian tree (tests/support/machines.py) with VashSender in it, booted with systemd in a container of its own.

The container has its own processes, its own systemd and a network with nothing but a loopback interface. Needs root.
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

from tests.support.machines import KEPT

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
    """A booted container. `tree`: its files, as this machine sees them; `leader`: its process 1."""

    tree: Path
    leader: int

    def run(self, *command: str, check: bool = True, text: str | None = None) -> str:
        """What a command says on stdout, run there by root. Fails with all it said, unless `check` is off."""
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
                told = self.run("journalctl", "--no-pager", "--lines=60", "--output=cat", check=False)
                raise AssertionError(f"not within {seconds:g} s: {what}\n{told}\n{self.logs()}")
            time.sleep(POLL_SECONDS)

    def logs(self) -> str:
        """The last lines of each of VashSender's logs."""
        files = sorted((self.tree / "var/log/vashsender").glob("*.log"))
        return "\n".join(f"== {path.name}\n" + "\n".join(path.read_text().splitlines()[-15:]) for path in files)


@contextmanager
def booted(tree: Path) -> Iterator[Machine]:
    """Boots a tree and powers it off at the end."""
    said = tree.parent / f"{tree.name}.console"
    with said.open("wb") as console:
        container = subprocess.Popen(
            [
                "systemd-nspawn",
                "--quiet",
                "--boot",
                f"--directory={tree}",
                f"--machine=vashsender-{os.getpid()}",
                "--private-network",
                # Neither a systemd nor a machined of this machine is needed.
                "--register=no",
                "--keep-unit",
                "--resolv-conf=off",
            ],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
        )
    try:
        machine = Machine(tree, _leader(container, said))
        done = ("running", "degraded")
        machine.wait(
            lambda: machine.run("systemctl", "is-system-running", check=False) in done, BOOT_SECONDS, "the boot"
        )
        yield machine
    finally:
        _power_off(container)
        said.unlink()


def install(tree: Path) -> None:
    """VashSender, as it is in this folder, with its locked dependencies in /opt/vashsender of a tree that is not yet
    booted. The packages come through this machine's pip: the container may have no network."""
    home = tree / HOME
    home.mkdir(parents=True)
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    there = b"\0".join(name for name in files.split(b"\0") if name and (ROOT / name.decode()).is_file())
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
    """A tarball of what requirements/run.txt names; made once, as it takes pip a while."""
    requirements = ROOT / "requirements/run.txt"
    kept = KEPT / f"packages-{hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]}.tar"
    if not kept.exists():
        with TemporaryDirectory(dir=KEPT) as folder:
            pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input", "install"]
            subprocess.run(
                [*pip, "--target", folder, "--no-deps", "--require-hashes", "-r", requirements],
                check=True,
                env={**os.environ, "PIP_ROOT_USER_ACTION": "ignore"},
            )
            Path(folder).chmod(0o755)  # as site-packages is to be
            draft = kept.with_suffix(".draft")
            subprocess.run(["tar", "--create", "--file", draft, "--directory", folder, "."], check=True)
            draft.replace(kept)
    return kept


def _leader(container: "subprocess.Popen[bytes]", said: Path) -> int:
    """Process 1 of the container, as soon as there is one."""
    deadline = time.monotonic() + BOOT_SECONDS
    while time.monotonic() < deadline and container.poll() is None:
        for child in psutil.Process(container.pid).children():
            if child.name() == "systemd":
                return child.pid
        time.sleep(POLL_SECONDS)
    raise AssertionError(f"systemd-nspawn did not boot: {said.read_text(errors='replace')}")


def _power_off(container: "subprocess.Popen[bytes]") -> None:
    if container.poll() is None:
        for child in psutil.Process(container.pid).children():
            child.send_signal(POWER_OFF)
        try:
            container.wait(POWER_OFF_SECONDS)
        except subprocess.TimeoutExpired:
            container.kill()  # its processes end with it
    container.wait()

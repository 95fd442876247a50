"""Images built by buildah from the Dockerfile, and containers of them: namespaces, a read-only root, no rights.

Needs root. The network is this machine's, so that tests reach services on loopback and these their servers.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import psutil

from cli.local import packages
from tests.support.machines import KEPT, debian

ROOT = Path(__file__).parents[2]
BUILD_SECONDS = 3600
STEP_SECONDS = 300
POLL_SECONDS = 0.1
BUILT = "localhost/vashsender:test"
NEEDED = ["debootstrap", "buildah"]
PIP_CONF = Path("/etc/pip.conf")
CERTIFICATES = Path("/etc/ssl/certs")

# What an engine does before it starts a process: the image read-only, scratch space where it was asked for, secrets.
_BECOME = """
set -eu
tree=$1 secrets=$2; shift 2
mount --bind "$tree" "$tree"
mount -t proc -o nosuid,nodev,noexec proc "$tree/proc"
mount --rbind /dev "$tree/dev"
mount -t tmpfs -o nosuid,nodev,noexec,mode=1777,size=64m tmpfs "$tree/tmp"
mount -t tmpfs -o nosuid,nodev,noexec,mode=0700,uid=10001,gid=10001,size=64m tmpfs "$tree/var/lib/vashsender"
mount --bind "$secrets" "$tree/run/secrets"
mount -o remount,bind,ro "$tree/run/secrets"
mount -o remount,bind,ro "$tree"
exec "$@"
"""


@dataclass(frozen=True, slots=True)
class Image:
    """A built image: its files and its configuration as an engine reads it (`Env`, `Entrypoint`, `Healthcheck` ...)."""

    tree: Path
    config: Mapping[str, Any]
    own_bytes: int
    """Size of what the Dockerfile adds to its base."""
    store: Path

    @property
    def environment(self) -> dict[str, str]:
        return dict(entry.split("=", 1) for entry in self.config["Env"])

    def save(self, file: Path, tag: str) -> None:
        """Writes it for `docker load`, named `tag`."""
        _buildah(self.store, "push", "--quiet", BUILT, f"docker-archive:{file}:{tag}")

    @property
    def health_check(self) -> list[str]:
        """Its command, as an engine runs it."""
        test: list[str] = self.config["Healthcheck"]["Test"]
        assert test[0] == "CMD"
        return test[1:]


@contextlib.contextmanager
def built_image(base_packages: Sequence[str]) -> Iterator[Image]:
    """The image that the Dockerfile makes on a Debian 12 with `base_packages`; gone with the block. Two minutes."""
    packages.ensure(NEEDED)
    KEPT.mkdir(parents=True, exist_ok=True)
    store = Path(mkdtemp(prefix="images-", dir=KEPT))
    try:
        _import_base(store, base_packages)
        _buildah(store, "bud", "--format", "docker", *_build_options(), "--tag", BUILT, str(ROOT))
        container = _buildah(store, "from", "--pull-never", BUILT).strip()
        tree = Path(_buildah(store, "mount", container).strip())
        (tree / "run" / "secrets").mkdir(parents=True, exist_ok=True)
        inspected = json.loads(_buildah(store, "inspect", "--type", "image", BUILT))
        layers = json.loads(inspected["Manifest"])["layers"]
        yield Image(tree, inspected["Docker"]["config"], sum(layer["size"] for layer in layers[1:]), store)
    finally:
        with contextlib.suppress(subprocess.SubprocessError):
            _buildah(store, "rm", "--all")
        shutil.rmtree(store, ignore_errors=True)


class Container:
    """A process of an image, as PID 1 of its own process namespace, with the rights that compose.yaml leaves it: none.

    `command` follows the image's entrypoint; `secrets` are texts by file name under `/run/secrets`. Its output is in
    `folder/NAME.log`.
    """

    def __init__(
        self,
        image: Image,
        folder: Path,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        secrets: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._image = image
        self._environment = {**image.environment, **environment}
        self._secrets = folder / f"{name}.secrets"
        self._secrets.mkdir(mode=0o755)
        for file, text in (secrets or {}).items():
            (self._secrets / file).write_text(text)
            (self._secrets / file).chmod(0o644)
        self._command = [*image.config["Entrypoint"], *command]
        self._unshare: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        isolated = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private", "--"]
        become = ["sh", "-c", _BECOME, "become", str(self._image.tree), str(self._secrets)]
        with self.log.open("ab") as log:
            self._unshare = subprocess.Popen(
                [*isolated, *become, *self._without_rights(self._command)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def run(self) -> int:
        """Start it and wait: a one-shot. Gives its exit code."""
        self.start()
        return self.wait(STEP_SECONDS)

    @property
    def pid(self) -> int:
        """PID 1 of the container, by its number outside."""
        return psutil.Process(self._started.pid).children()[0].pid

    @property
    def is_running(self) -> bool:
        return self._started.poll() is None

    def execute(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Another process inside, with the container's user and environment, as `docker exec` and health checks."""
        inside = ["nsenter", f"--target={self.pid}", "--mount", "--pid", "--"]
        return subprocess.run(
            [*inside, *self._without_rights(command)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=STEP_SECONDS,
            check=False,
        )

    def is_healthy(self) -> bool:
        """The image's health check, executed as written."""
        return self.execute(self._image.health_check).returncode == 0

    def wait_health(self, healthy: bool, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self.is_healthy() is not healthy:
            assert self.is_running, f"{self.name} ended:\n{self.last_words()}"
            assert time.monotonic() < deadline, f"{self.name}: not {healthy=} in {seconds:g} s:\n{self.last_words()}"
            time.sleep(POLL_SECONDS)

    def stop(self, seconds: float) -> int:
        """SIGTERM to PID 1, as an engine stops a container; its exit code. Fails if it takes longer."""
        os.kill(self.pid, signal.SIGTERM)
        return self.wait(seconds)

    def wait(self, seconds: float) -> int:
        try:
            return self._started.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} runs after {seconds:g} s:\n{self.last_words()}") from None

    def kill(self) -> None:
        if self._unshare is not None and self._unshare.poll() is None:
            self._unshare.kill()
            self._unshare.wait()

    def last_words(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-40:])

    def _without_rights(self, command: Sequence[str]) -> list[str]:
        user = self._image.config["User"]
        variables = [f"{name}={value}" for name, value in self._environment.items()]
        root = ["setpriv", "--no-new-privs", "chroot", f"--userspec={user}", f"--groups={user.partition(':')[2]}"]
        work = ["env", f"--chdir={self._image.config['WorkingDir']}", "-i", *variables]
        return [*root, str(self._image.tree), *work, *command]

    @property
    def _started(self) -> subprocess.Popen[bytes]:
        assert self._unshare is not None, f"{self.name} was not started"
        return self._unshare


def _import_base(store: Path, base_packages: Sequence[str]) -> None:
    with debian("bookworm", *base_packages) as tree:
        shutil.rmtree(tree / "var/lib/apt/lists", ignore_errors=True)
        container = _buildah(store, "from", "scratch").strip()
        _buildah(store, "add", "--quiet", container, str(tree), "/")
        _buildah(store, "commit", "--quiet", "--rm", container, "localhost/base:1")


def _build_options() -> list[str]:
    """As on any machine, plus what this one needs to reach a package index: its pip.conf and certificates."""
    options = ["--isolation", "chroot", "--pull-never", "--build-arg", "BASE=localhost/base:1"]
    if PIP_CONF.exists():
        options += ["--secret", f"id=pip,src={PIP_CONF}"]
    return [*options, "--volume", f"{CERTIFICATES}:{CERTIFICATES}:ro"]


def _buildah(store: Path, *arguments: str) -> str:
    done = subprocess.run(
        [
            "buildah",
            "--root",
            str(store / "root"),
            "--runroot",
            str(store / "run"),
            "--storage-driver",
            "vfs",
            *arguments,
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"buildah {arguments[0]}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout

"""Builds the image with buildah and runs containers of it: namespaces, a read-only root, no privileges.

Needs root. Containers use this machine's network, so that tests and servers are reachable on loopback.
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
from tests.support.debian_tree import CACHE, debian

ROOT = Path(__file__).parents[2]
BUILD_SECONDS = 3600
STEP_SECONDS = 300
POLL_SECONDS = 0.1
BUILT = "localhost/vashsender:test"
NEEDED = ["debootstrap", "buildah"]
PIP_CONF = Path("/etc/pip.conf")
CERTIFICATES = Path("/etc/ssl/certs")

# What an engine does before it starts a process: mounts the image read-only, scratch space and secrets.
_ENTER_IMAGE = """
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
    """A built image."""

    #: Its files.
    tree: Path
    #: Its configuration as an engine reads it: `Env`, `Entrypoint`, `Healthcheck` and so on.
    config: Mapping[str, Any]
    #: Size of what the Dockerfile adds to its base image.
    own_bytes: int
    #: buildah's storage.
    store: Path

    @property
    def environment(self) -> dict[str, str]:
        return dict(entry.split("=", 1) for entry in self.config["Env"])

    def save(self, file: Path, tag: str) -> None:
        """Writes an archive for `docker load`, named `tag`."""
        _buildah(self.store, "push", "--quiet", BUILT, f"docker-archive:{file}:{tag}")

    @property
    def health_check(self) -> list[str]:
        """The command of its HEALTHCHECK."""
        test: list[str] = self.config["Healthcheck"]["Test"]
        assert test[0] == "CMD"
        return test[1:]


@contextlib.contextmanager
def built_image(base_packages: Sequence[str], *options: str) -> Iterator[Image]:
    """Builds the Dockerfile on a Debian 12 with `base_packages`, with these `options` of buildah. Removes the image at
    the end. Takes 2 minutes."""
    packages.ensure(NEEDED)
    CACHE.mkdir(parents=True, exist_ok=True)
    store = Path(mkdtemp(prefix="images-", dir=CACHE))
    try:
        _import_base(store, base_packages)
        _buildah(store, "bud", "--format", "docker", *_build_options(), *options, "--tag", BUILT, str(ROOT))
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
    """A process of an image, as PID 1 of a process namespace and, as in compose.yaml, without privileges.

    `command` follows the image's entrypoint. `secrets` maps names of files under `/run/secrets` to their text.
    The output goes to `folder/NAME.log`.
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
        enter = ["sh", "-c", _ENTER_IMAGE, "enter-image", str(self._image.tree), str(self._secrets)]
        with self.log.open("ab") as log:
            self._unshare = subprocess.Popen(
                [*isolated, *enter, *self._unprivileged(self._command)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def run(self) -> int:
        """Starts the process and waits for its end. Returns the exit code."""
        self.start()
        return self.wait(STEP_SECONDS)

    @property
    def pid(self) -> int:
        """The pid of the container's PID 1, as seen from outside."""
        return psutil.Process(self._started.pid).children()[0].pid

    @property
    def is_running(self) -> bool:
        return self._started.poll() is None

    def execute(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Runs another process inside, with the container's user and environment, like `docker exec`."""
        inside = ["nsenter", f"--target={self.pid}", "--mount", "--pid", "--"]
        return subprocess.run(
            [*inside, *self._unprivileged(command)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=STEP_SECONDS,
            check=False,
        )

    def is_healthy(self) -> bool:
        """Runs the image's health check."""
        return self.execute(self._image.health_check).returncode == 0

    def wait_health(self, healthy: bool, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self.is_healthy() is not healthy:
            assert self.is_running, f"{self.name} ended:\n{self.log_tail()}"
            assert time.monotonic() < deadline, f"{self.name}: not {healthy=} in {seconds:g} s:\n{self.log_tail()}"
            time.sleep(POLL_SECONDS)

    def stop(self, seconds: float) -> int:
        """Sends SIGTERM to PID 1, as an engine does. Returns the exit code; fails if it takes longer."""
        os.kill(self.pid, signal.SIGTERM)
        return self.wait(seconds)

    def wait(self, seconds: float) -> int:
        try:
            return self._started.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} runs after {seconds:g} s:\n{self.log_tail()}") from None

    def kill(self) -> None:
        if self._unshare is not None and self._unshare.poll() is None:
            self._unshare.kill()
            self._unshare.wait()

    def log_tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-40:])

    def _unprivileged(self, command: Sequence[str]) -> list[str]:
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
    """The usual options, plus pip.conf and certificates, which this machine may need to reach a package index."""
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

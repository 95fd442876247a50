"""A private Docker Engine: Debian's dockerd in its own network namespace and folder; Docker Compose from Debian 13.

Needs root. Bridges, addresses and firewall rules live in a namespace that disappears with the daemon, so this machine's
network is unchanged. `Engine.inside` runs a command in that namespace, where published ports are on 127.0.0.1.
"""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import IO, Any

from cli.local import packages
from tests.support.debian_tree import CACHE, debian

START_SECONDS = 120.0
STOP_SECONDS = 120.0
COMMAND_SECONDS = 1800.0
POLL_SECONDS = 0.2
COMPOSE = "usr/libexec/docker/cli-plugins/docker-compose"

# /etc/docker would get a key of the daemon's.
_DAEMON = """
set -eu
ip link set lo up
mkdir -p /etc/docker
mount -t tmpfs tmpfs /etc/docker
exec dockerd --host "unix://$1/docker.sock" --data-root "$1/data" --exec-root "$1/exec" --pidfile "$1/pid" \\
    --log-level warn
"""


@dataclass(frozen=True, slots=True)
class Engine:
    folder: Path
    pid: int

    @property
    def environment(self) -> dict[str, str]:
        # The classic builder: Debian 12's client has no other.
        return {**os.environ, "DOCKER_HOST": f"unix://{self.folder}/docker.sock", "DOCKER_BUILDKIT": "0"}

    def docker(self, *arguments: str | Path) -> str:
        return _run(["/usr/bin/docker", *map(str, arguments)], self.environment)

    def compose(self, project: Path, *arguments: str, given: Path | None = None, into: Path | None = None) -> str:
        """`docker compose` in the folder of a compose.yaml, `< given` and `> into`; else gives its standard output."""
        with ExitStack() as files:
            source = files.enter_context(given.open("rb")) if given else subprocess.DEVNULL
            target = files.enter_context(into.open("wb")) if into else subprocess.PIPE
            return _run([str(self.folder / "docker-compose"), *arguments], self.environment, project, source, target)

    def inspect(self, container: str) -> Mapping[str, Any]:
        found: list[dict[str, Any]] = json.loads(self.docker("inspect", container))
        return found[0]

    def inside(self, command: Sequence[str], variables: Mapping[str, str]) -> str:
        """A command of this machine's, where the engine publishes its ports."""
        return _run(["nsenter", f"--net=/proc/{self.pid}/ns/net", "--", *command], {**os.environ, **variables})


@contextmanager
def engine(tree_packages: Sequence[str], images: Mapping[str, str], dockerfiles: Path) -> Iterator[Engine]:
    """A Docker Engine with `images` built: tag to Dockerfile in `dockerfiles`.

    Each is built FROM `substitute:base`, a Debian 13 with `tree_packages`."""
    packages.ensure(["debootstrap", "docker.io"])
    CACHE.mkdir(parents=True, exist_ok=True)
    folder = Path(mkdtemp(prefix="engine-", dir=CACHE))
    with (folder / "log").open("wb") as log:
        daemon = subprocess.Popen(
            ["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", _DAEMON, "dockerd", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        started = Engine(folder, daemon.pid)
        _wait_started(started, daemon)
        with debian("trixie", "docker-compose", *tree_packages) as tree:
            shutil.copy2(tree / COMPOSE, folder / "docker-compose")
            subprocess.run(
                f"tar -C '{tree}' -c . | /usr/bin/docker import - substitute:base",
                shell=True,
                check=True,
                env=started.environment,
                stdout=subprocess.DEVNULL,
            )
        for tag, dockerfile in images.items():
            started.docker("build", "--quiet", "--tag", tag, "--file", dockerfiles / dockerfile, dockerfiles)
        yield started
    finally:
        daemon.send_signal(signal.SIGTERM)  # which stops the containers
        try:
            daemon.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_started(started: Engine, daemon: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while subprocess.run(
        ["/usr/bin/docker", "info"], env=started.environment, capture_output=True, check=False
    ).returncode:
        if daemon.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"dockerd did not start:\n{(started.folder / 'log').read_text()[-4000:]}")
        time.sleep(POLL_SECONDS)


def _run(
    command: Sequence[str],
    environment: Mapping[str, str],
    folder: Path | None = None,
    source: IO[bytes] | int = subprocess.DEVNULL,
    target: IO[bytes] | int = subprocess.PIPE,
) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env=dict(environment),
        stdin=source,
        stdout=target,
        stderr=subprocess.PIPE,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    said = done.stdout or ""
    assert done.returncode == 0, f"{' '.join(command[:6])}: {said[-2000:]}{done.stderr[-6000:]}"
    return said

"""Postfix's smtp-sink and smtp-source: a server that accepts and drops everything, with faults, and a C client."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support.smtp.debian import environment, postfix_tree

START_SECONDS = 60.0
BACKLOG = "1000"


@contextmanager
def smtp_sink(*flags: str, dump: Path | None = None) -> Iterator[int]:
    """The port of an smtp-sink that runs as long as the block. `dump`: a folder that gets one file per message."""
    with smtp_sink_process(*flags, dump=dump) as (port, _):
        yield port


@contextmanager
def smtp_sink_process(*flags: str, dump: Path | None = None) -> Iterator[tuple[int, int]]:
    """The same, and the id of its process."""
    tree = postfix_tree()
    port = unused_port()
    command = [str(tree / "usr/sbin/smtp-sink"), *flags]
    if os.geteuid() == 0:
        command += ["-u", "nobody"]
    if dump is not None:
        command += ["-d", f"{dump}/message."]
    process = subprocess.Popen([*command, f"127.0.0.1:{port}", BACKLOG], env=environment(tree))
    try:
        wait_for_port(port, process)
        yield port, process.pid
    finally:
        process.kill()
        process.wait()


@contextmanager
def public_folder() -> Iterator[Path]:
    """A folder for servers that drop root's rights: pytest's folders are closed to other users."""
    with TemporaryDirectory(prefix="smtp-peer-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


def smtp_source(port: int, *, sessions: int, emails: int, size: int) -> subprocess.CompletedProcess[bytes]:
    """Have the C client send `emails` of `size` bytes over `sessions` connections, many emails on each."""
    tree = postfix_tree()
    flags = ["-d", "-s", str(sessions), "-m", str(emails), "-l", str(size)]
    command = [str(tree / "usr/sbin/smtp-source"), *flags, f"127.0.0.1:{port}"]
    return subprocess.run(command, env=environment(tree), check=True, capture_output=True)


def unused_port() -> int:
    """A port on which no process listens at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    """Return when a process listens on `port`. Raises if `process` ends first or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise TimeoutError(f"no process listens on port {port}")

"""Lets any user start a server that must be started by root: fakeroot answers for the kernel when owners change."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.smtp.debian import fakeroot_tree

START_SECONDS = 60
VARIABLES = ("LD_PRELOAD", "FAKEROOTKEY", "FAKED_MODE")


@contextmanager
def fakeroot() -> Iterator[dict[str, str]]:
    """The `VARIABLES` under which programs take themselves for root's, as long as the block: they see each other's
    owners, and change user and group as they like, while all of them remain ours."""
    tree = fakeroot_tree()
    (library,) = tree.glob("usr/lib/*/libfakeroot/libfakeroot-tcp.so")
    daemon = str(tree / "usr/bin/faked-tcp")
    said = subprocess.run([daemon], stdout=subprocess.PIPE, text=True, timeout=START_SECONDS, check=True).stdout
    key, _, pid = said.strip().partition(":")
    try:
        yield dict(zip(VARIABLES, (str(library), key, "unknown-is-root"), strict=True))
    finally:
        os.kill(int(pid), signal.SIGTERM)

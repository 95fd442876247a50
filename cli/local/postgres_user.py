"""The user that a PostgreSQL server runs as: the current user, or `postgres` for root, which PostgreSQL refuses."""

import os
import pwd
import re
from collections.abc import Sequence
from pathlib import Path

from cli.local import LocalError

SERVER_USER = "postgres"
CAPABILITIES_TO_PASS = {"dac_read_search": 2, "dac_override": 1}
"""Linux capabilities that let a process enter closed folders, and their bits."""


def as_server_user(folder: Path, command: Sequence[str]) -> list[str]:
    """`command`, run as the server's user, who must be able to reach `folder`."""
    if os.geteuid() != 0:
        return list(command)
    user = _server_user()
    drop = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    if any(not parent.stat().st_mode & 0o001 for parent in folder.parents):
        # For example a clone under /root: keep only the right to enter closed folders.
        capability = _capability_to_pass()
        drop += [f"--inh-caps=+{capability}", f"--ambient-caps=+{capability}"]
    return [*drop, "--", *command]


def give(path: Path) -> None:
    """Makes the server's user the owner of `path`."""
    if os.geteuid() == 0:
        user = _server_user()
        os.chown(path, user.pw_uid, user.pw_gid)


def _server_user() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(SERVER_USER)
    except KeyError:
        raise LocalError(f"PostgreSQL refuses to run as root, and there is no user {SERVER_USER}") from None


def _capability_to_pass() -> str:
    status = Path("/proc/self/status").read_text()
    effective = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    mask = int(effective.group(1), 16) if effective else 0
    for name, bit in CAPABILITIES_TO_PASS.items():
        if mask >> bit & 1:
            return name
    raise LocalError(
        "PostgreSQL refuses to run as root, and no other user may enter this folder: move it, or chmod o+x"
    )

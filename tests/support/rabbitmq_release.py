"""Runs the tests' broker from the file tree of another Debian, which has another release of RabbitMQ.

`VASHSENDER_TEST_RABBITMQ_ROOT` names the tree. The node runs as root in its own mount namespace, chrooted into the
tree, with the folders it shares with the tests at the same paths. It uses this machine's network and processes.
"""

import os
from pathlib import Path

from cli.local import LocalError
from cli.local.broker import SERVER, PrivateBroker

ROOT_VARIABLE = "VASHSENDER_TEST_RABBITMQ_ROOT"
SHARED = (Path("/tmp"), Path("/proc"), Path("/dev"))

_ENTER = """
set -eu
root=$1; shift
while [ "$1" != -- ]; do mkdir -p "$root$1"; mount --rbind "$1" "$root$1"; shift; done
shift
exec chroot "$root" "$@"
"""


def broker_at(data_dir: Path, *ports: int) -> PrivateBroker:
    """A node of the release under test."""
    root = os.environ.get(ROOT_VARIABLE)
    return ChrootedBroker(Path(root), data_dir, *ports) if root else PrivateBroker(data_dir, *ports)


class ChrootedBroker(PrivateBroker):
    """A private broker whose server is in the tree at `root`."""

    def __init__(self, root: Path, data_dir: Path, *ports: int) -> None:
        super().__init__(data_dir, *ports)
        self._root = root.absolute()

    def server_command(self) -> list[str]:
        if not (self._root / SERVER.relative_to("/")).exists():
            raise LocalError(f"there is no RabbitMQ in {self._root}")
        shared = [str(path) for path in (*SHARED, self.data_dir)]
        enter = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _ENTER, "enter", str(self._root)]
        return [*enter, *shared, "--", str(SERVER)]

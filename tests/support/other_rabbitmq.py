"""The tests' broker out of another Debian's file tree: another release of RabbitMQ than this machine has.

`VASHSENDER_TEST_RABBITMQ_ROOT` names the tree. The node runs as root in a mount namespace of its own, chrooted into the
tree, with the folders it shares with the tests at the same paths; the network and the processes are this machine's.
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
    """A node of the release the tests are to run on."""
    root = os.environ.get(ROOT_VARIABLE)
    return BrokerInTree(Path(root), data_dir, *ports) if root else PrivateBroker(data_dir, *ports)


class BrokerInTree(PrivateBroker):
    def __init__(self, root: Path, data_dir: Path, *ports: int) -> None:
        super().__init__(data_dir, *ports)
        self._root = root.absolute()

    def server_command(self) -> list[str]:
        if not (self._root / SERVER.relative_to("/")).exists():
            raise LocalError(f"there is no RabbitMQ in {self._root}")
        shared = [str(path) for path in (*SHARED, self.data_dir)]
        enter = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _ENTER, "enter", str(self._root)]
        return [*enter, *shared, "--", str(SERVER)]

"""TCP ports of this machine: which are free."""

import random
import socket
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from cli.local import LocalError
from shared.ports import holder

LOOPBACK = "127.0.0.1"
LOWEST_RANDOM_PORT = 10_000
EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")

share = (0, 1)
"""Which part of the ports this process chooses from, and of how many. Processes that choose at the same time must not
meet: a port is free until its server listens."""

_given: deque[int] = deque(maxlen=100)  # chosen by this process; their servers may not listen yet


class PortTakenError(LocalError):
    """A port that a private server needs is held by another process."""


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A free port."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Different free ports.

    They are below the range for outgoing connections, so that none of those takes a port before its server starts.
    """
    lowest_ephemeral = _lowest_ephemeral_port()
    index, shares = share
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(LOWEST_RANDOM_PORT + index, lowest_ephemeral, shares)
        if port not in _given and is_free(port):
            found.append(port)
            _given.append(port)
    return found


def refuse_taken(ports: Mapping[str, int]) -> None:
    """Raises PortTakenError for the first port that is not free. `ports`: port by purpose."""
    for purpose, port in ports.items():
        if not is_free(port):
            raise PortTakenError(f"port {port} ({purpose}) is taken by {holder(port)}: stop it, or choose another port")


def _lowest_ephemeral_port() -> int:
    try:
        return max(int(EPHEMERAL_RANGE.read_text().split()[0]), LOWEST_RANDOM_PORT + 10_000)
    except (OSError, ValueError, IndexError):
        return 32_768

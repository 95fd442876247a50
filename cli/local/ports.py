"""TCP ports of this machine: which are free, and who holds one that is not."""

import random
import socket
from collections.abc import Mapping
from pathlib import Path

import psutil

from cli.local import LocalError

LOOPBACK = "127.0.0.1"
LOWEST_RANDOM_PORT = 10_000
EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


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
    """One port nobody listens on."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Different ports nobody listens on.

    They lie below the range outgoing connections get theirs from, so that none of those takes a port handed out
    here before its server starts.
    """
    lowest_ephemeral = _lowest_ephemeral_port()
    found: set[int] = set()
    while len(found) < count:
        port = random.randrange(LOWEST_RANDOM_PORT, lowest_ephemeral)
        if port not in found and is_free(port):
            found.add(port)
    return list(found)


def holder(port: int) -> str:
    """Who listens on `port`, in words: `beam.smp (pid 4711, user rabbitmq)`."""
    for pid in _listeners(port):
        try:
            process = psutil.Process(pid)
            return f"{process.name()} (pid {pid}, user {process.username()})"
        except psutil.Error:
            continue
    return "a process of another user"


def refuse_taken(ports: Mapping[str, int]) -> None:
    """Raise `PortTakenError` for the first of these ports (by what it is for) that is not free."""
    for purpose, port in ports.items():
        if not is_free(port):
            raise PortTakenError(f"port {port} ({purpose}) is taken by {holder(port)}: stop it, or choose another port")


def _listeners(port: int) -> list[int]:
    try:
        connections = psutil.net_connections(kind="tcp")
    except (psutil.Error, OSError):
        return []
    return [
        entry.pid
        for entry in connections
        if entry.status == psutil.CONN_LISTEN and entry.laddr and entry.laddr.port == port and entry.pid is not None
    ]


def _lowest_ephemeral_port() -> int:
    try:
        return max(int(EPHEMERAL_RANGE.read_text().split()[0]), LOWEST_RANDOM_PORT + 10_000)
    except (OSError, ValueError, IndexError):
        return 32_768

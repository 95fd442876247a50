"""Which process holds a TCP port of this machine."""

import psutil


def holder(port: int) -> str:
    """The process that listens on `port`, such as `beam.smp (pid 4711, user rabbitmq)`."""
    for pid in _listeners(port):
        try:
            process = psutil.Process(pid)
            return f"{process.name()} (pid {pid}, user {process.username()})"
        except psutil.Error:
            continue
    return "a process of another user"


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

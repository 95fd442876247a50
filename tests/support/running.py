"""Processes that may end while they are looked at: a broker's node has children that live for a moment."""

from collections.abc import Iterable
from contextlib import suppress

import psutil


def name_of(process: psutil.Process) -> str:
    """Empty if it has ended."""
    try:
        return str(process.name())
    except psutil.NoSuchProcess:
        return ""


def lives(process: psutil.Process) -> bool:
    """Whether it has not ended; a zombie has."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def listening_addresses(processes: Iterable[psutil.Process]) -> set[str]:
    """The IP addresses on which TCP servers of these processes listen."""
    found: set[str] = set()
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            entries = process.net_connections("tcp")
            found |= {entry.laddr.ip for entry in entries if entry.status == psutil.CONN_LISTEN}
    return found

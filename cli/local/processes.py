"""Uptime, restarts, CPU and memory of each supervised process, children included."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from cli.local.supervise import State

RUNNING = "running"
CPU_SAMPLE_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class ProcessUse:
    """One process and its children."""

    name: str
    #: supervisord's word in lower case, such as `running`.
    state: str
    #: 0 if it is not running.
    pid: int
    uptime_seconds: float
    restarts: int
    #: Of one core, during the sample.
    cpu_percent: float
    memory_bytes: int
    #: Why it could not start; empty if it could.
    trouble: str


def processes(states: Sequence[State], sample_seconds: float = CPU_SAMPLE_SECONDS) -> list[ProcessUse]:
    """Samples every process twice, `sample_seconds` apart."""
    families = {state.name: _family(state.pid) for state in states}
    before = {name: _cpu_seconds(family) for name, family in families.items()}
    began = time.monotonic()
    time.sleep(sample_seconds)
    elapsed = time.monotonic() - began
    return [
        ProcessUse(
            name=state.name,
            state=state.state.lower(),
            pid=state.pid,
            uptime_seconds=_uptime(families[state.name]),
            restarts=max(0, state.starts - 1),
            cpu_percent=max(0.0, _cpu_seconds(families[state.name]) - before[state.name]) / elapsed * 100,
            memory_bytes=_memory(families[state.name]),
            trouble=state.trouble,
        )
        for state in states
    ]


def _family(pid: int) -> list[psutil.Process]:
    if not pid:
        return []
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def _uptime(family: Sequence[psutil.Process]) -> float:
    """Uptime by the process's own start: an adopted process is older than its supervisor knows."""
    try:
        return max(0.0, time.time() - family[0].create_time()) if family else 0.0
    except psutil.Error:
        return 0.0


def _cpu_seconds(family: Sequence[psutil.Process]) -> float:
    total = 0.0
    for process in family:
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total


def _memory(family: Sequence[psutil.Process]) -> int:
    total = 0
    for process in family:
        try:
            total += process.memory_info().rss
        except psutil.Error:
            continue
    return total

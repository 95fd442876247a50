"""Waits until programs can work, and reports in their own words why one cannot."""

import time
from collections.abc import Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cli.local import LocalError, NotReadyError
from cli.local.programs import Program
from cli.local.supervise import ENDED, Supervisor
from shared.errors import ConfigurationError

if TYPE_CHECKING:
    import httpx

READY_TIMEOUT_SECONDS = 120.0
PROBE_SECONDS = 3.0
POLL_SECONDS = 0.1
STARTS_BEFORE_GIVING_UP = 3


def wait_ready(supervisor: Supervisor, programs: Sequence[Program]) -> None:
    """Returns once every program reports that it can work. Raises ConfigurationError, LocalError or NotReadyError."""
    import httpx  # slow to import, and most verbs do not wait

    waiting = {program.name: program.ready_url for program in programs if program.ready_url}
    deadline = time.monotonic() + READY_TIMEOUT_SECONDS
    with httpx.Client(timeout=PROBE_SECONDS, trust_env=False) as http:
        while waiting:
            answers = {name: _probe(http, url) for name, url in waiting.items()}
            waiting = {name: url for name, url in waiting.items() if answers[name]}
            if not waiting:
                return
            refuse_ended(supervisor, waiting)
            if time.monotonic() > deadline:
                told = "; ".join(f"{name}: {answers[name]}" for name in waiting)
                raise NotReadyError(f"not ready in {READY_TIMEOUT_SECONDS:g} s: {told}. See {supervisor.log_dir}")
            time.sleep(POLL_SECONDS)


def refuse_ended(supervisor: Supervisor, names: Container[str]) -> None:
    """Raises if one of these programs ended because of a wrong setting, or keeps ending."""
    for state in supervisor.states():
        if state.name not in names or state.state not in ("BACKOFF", *ENDED):
            continue
        words = _last_words(supervisor.log_dir / f"{state.name}.log")
        if state.exit_code == ConfigurationError.exit_code:
            raise ConfigurationError(words)
        if state.state in ENDED or supervisor.starts(state.name) >= STARTS_BEFORE_GIVING_UP:
            raise LocalError(f"{state.name} ended while starting: {words}")


def relative(path: Path) -> str:
    """The path relative to the current folder, if it is inside."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _last_words(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return f"{lines[-1] if lines else 'its log is empty'} (see {relative(log)})"


def _probe(http: "httpx.Client", url: str) -> str:
    """What is wrong; empty if the program can work."""
    import httpx

    try:
        answer = http.get(url)
    except httpx.HTTPError as error:
        return str(error) or type(error).__name__
    if answer.is_success:
        return ""
    try:
        checks = answer.json()["checks"]
    except (ValueError, KeyError):
        return f"HTTP {answer.status_code}"
    # A resting relay does not count: the sender itself works, and sends once the relay is back.
    return ", ".join(f"{name}: {result}" for name, result in checks.items() if result != "ok" and name != "relays")

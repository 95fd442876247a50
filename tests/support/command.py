"""Runs `vashsender` as an operator does: a subprocess with its own installation."""

import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from cli.local.ports import free_port, free_ports, is_free

COMMAND_SECONDS = 180.0
SENDER_PORTS = 4
PORTS = (
    "api",
    "api_health",
    "broker",
    "broker_management",
    "broker_prometheus",
    "broker_dist",
    "broker_epmd",
    "mailbox",
    "mailbox_page",
    "dispatcher",
    "watchdog",
    "webhooks",
)


@dataclass
class Command:
    """`command("status", "--json")` runs `vashsender status --json` in `folder`, on ports that are free.

    `settings` are environment variables with their full names. The caller's `VASHSENDER_*` variables are removed."""

    folder: Path
    settings: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, port in zip(PORTS, free_ports(len(PORTS)), strict=True):
            self.settings.setdefault(f"VASHSENDER_{name.upper()}_PORT", str(port))
        self.settings.setdefault("VASHSENDER_SENDER_PORT", str(_free_port_range(SENDER_PORTS)))
        self.settings.setdefault("VASHSENDER_VAR_DIR", str(self.var))

    @property
    def var(self) -> Path:
        return self.folder / "var"

    def port(self, name: str) -> int:
        return int(self.settings[f"VASHSENDER_{name.upper()}_PORT"])

    def __call__(
        self, *arguments: str, settings: Mapping[str, str] | None = None, seconds: float = COMMAND_SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """Runs the command to its end and accepts any exit code."""
        return subprocess.run(
            self.line(*arguments),
            env=self.environment(settings),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def on_terminal(
        self,
        *arguments: str,
        typed: str = "",
        interrupt_at: str = "",
        settings: Mapping[str, str] | None = None,
    ) -> tuple[int, str]:
        """Runs a command on a terminal. Returns its exit code and output.

        `typed` is the person's input. Ctrl-C is pressed once the output contains `interrupt_at`."""
        ours, theirs = pty.openpty()
        os.write(ours, typed.encode())
        environment = {**self.environment(settings), "TERM": "xterm-256color", "COLUMNS": "120"}
        process = subprocess.Popen(
            self.line(*arguments), env=environment, cwd=self.folder, stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        output = ""
        limit = threading.Timer(COMMAND_SECONDS, process.kill)  # else a wrong `interrupt_at` would wait forever
        limit.start()
        try:
            while True:
                output += os.read(ours, 65_536).decode(errors="replace")
                if interrupt_at and interrupt_at in output:
                    process.send_signal(signal.SIGINT)
                    interrupt_at = ""
        except OSError:  # the last process on the terminal has ended
            return process.wait(COMMAND_SECONDS), output
        finally:
            limit.cancel()
            process.kill()
            os.close(ours)

    def ok(self, *arguments: str, seconds: float = COMMAND_SECONDS) -> str:
        """The stdout of a command that must succeed."""
        done = self(*arguments, seconds=seconds)
        assert done.returncode == 0, (
            f"vashsender {' '.join(arguments)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        return done.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self.ok(*arguments, "--json"))

    def line(self, *arguments: str) -> list[str]:
        """The command line."""
        return [str(Path(sys.executable).with_name("vashsender")), *arguments]

    def environment(self, settings: Mapping[str, str] | None = None) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("VASHSENDER_")}
        return {**inherited, **self.settings, **(settings or {})}

    def pids(self) -> dict[str, int]:
        """Pids of the running supervised programs, by name."""
        return {state["name"]: state["pid"] for state in json.loads(self("status", "--json").stdout)}

    def processes(self) -> list[str]:
        """Every process of this installation, as "PID NAME". Empty after a stop."""
        found = []
        for process in psutil.process_iter():
            try:
                words = " ".join([*process.cmdline(), *process.environ().values()])
            except (psutil.Error, OSError):
                continue
            if str(self.var) in words and process.pid != os.getpid():
                found.append(f"{process.pid} {process.name()}")
        return found


def _free_port_range(count: int) -> int:
    """The first of `count` consecutive free ports."""
    while True:
        first = free_port()
        if all(is_free(first + number) for number in range(count)):
            return first

"""Notifications to systemd: ready, alive, reloading, stopping, and a status line (sd_notify(3)).

The protocol is one datagram. Its libraries either need systemd's C headers or have had no release since 2017.
"""

import contextlib
import os
import socket
import time
from collections.abc import Mapping

SEND_SECONDS = 1.0


class Notifier:
    """Sends notifications to the socket that the environment names; does nothing if there is none."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # @ stands for the null byte that starts a name in the abstract namespace.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        meant = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        #: How long systemd waits for the next `alive`; 0 if it does not wait.
        self.watchdog_seconds = int(environment.get("WATCHDOG_USEC", "0")) / 1e6 if meant else 0.0

    @property
    def is_heard(self) -> bool:
        return bool(self._address)

    def ready(self) -> None:
        """The process has started, or has finished reloading."""
        self._send("READY=1")

    def alive(self) -> None:
        self._send("WATCHDOG=1")

    def reloading(self) -> None:
        """The process restarts under the same pid; `ready` follows."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        self._send("STOPPING=1", "STATUS=stopping")

    def status(self, text: str) -> None:
        """The line that `systemctl status` shows."""
        self._send("STATUS=" + " ".join(text.split()))

    def _send(self, *lines: str) -> None:
        """Errors are ignored: the next notification makes up for a lost one."""
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as speaker:
            speaker.settimeout(SEND_SECONDS)
            speaker.sendto("\n".join(lines).encode(), self._address)

"""What systemd is told: ready, alive, reloading, stopping, and how it is in one line (sd_notify(3)).

The protocol is one datagram. The libraries for it either need systemd's C headers or have had no release since 2017.
"""

import contextlib
import os
import socket
import time
from collections.abc import Mapping

SEND_SECONDS = 1.0


class Notifier:
    """Speaks to whoever the environment names; to nobody where no supervisor listens.

    `watchdog_seconds`: how long systemd waits for the next sign of life; 0 where it does not."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # A name that begins with @ is in the abstract namespace, whose names begin with a null byte.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        meant = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_seconds = int(environment.get("WATCHDOG_USEC", "0")) / 1e6 if meant else 0.0

    @property
    def is_heard(self) -> bool:
        return bool(self._address)

    def ready(self) -> None:
        """This process has started, or has ended what `reloading` announced."""
        self._send("READY=1")

    def alive(self) -> None:
        self._send("WATCHDOG=1")

    def reloading(self) -> None:
        """This process begins anew under the same pid; `ready` follows."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        self._send("STOPPING=1", "STATUS=stopping")

    def status(self, text: str) -> None:
        """What `systemctl status` shows."""
        self._send("STATUS=" + " ".join(text.split()))

    def _send(self, *lines: str) -> None:
        """Whether it arrives or not, the work goes on: a sign of life that was lost is followed by the next."""
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as speaker:
            speaker.settimeout(SEND_SECONDS)
            speaker.sendto("\n".join(lines).encode(), self._address)

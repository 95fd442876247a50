"""Services as the processes they are in production: `python -m services.X`, talked to over HTTP and signals."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import httpx

from tests.support.nursery import Child, Nursery

START_TIMEOUT_SECONDS = 90.0
STOP_TIMEOUT_SECONDS = 45.0
POLL_SECONDS = 0.05
LOG_LINES_SHOWN = 40


class ServiceProcess:
    """One process of `services.<service>`.

    `settings` are whole environment variables (`{"VASHSENDER_DATABASE_URL": ...}`); no other `VASHSENDER_*` variable of
    the caller reaches the process, and neither does a `.env` file, as it runs in `folder`. Its output is in
    `folder/<name>.log`. `python` is that of the environment it is installed in. With a `nursery` it is forked there,
    unless it needs another interpreter or something loaded into it.
    """

    nursery: ClassVar[Nursery | None] = None

    def __init__(
        self,
        service: str,
        settings: Mapping[str, str],
        http_port: int,
        folder: Path,
        name: str = "",
        python: str = sys.executable,
    ) -> None:
        self.name = name or service
        self.http_url = f"http://127.0.0.1:{http_port}"
        self.log = folder / f"{self.name}.log"
        self._command = [python, "-m", f"services.{service}"]
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("VASHSENDER_")}
        self._environment = {**inherited, **settings, "VASHSENDER_HTTP_PORT": str(http_port)}
        self._folder = folder
        self._process: subprocess.Popen[bytes] | Child | None = None

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def launch(self) -> None:
        """Start the process; `wait_ready` tells when it works. A process that ended may be launched again."""
        if self.nursery and self._command[0] == sys.executable and "LD_PRELOAD" not in self._environment:
            self._process = self.nursery.start(self._command[-1], self._environment, self._folder, self.log)
            return
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    async def wait_ready(self, timeout_seconds: float = START_TIMEOUT_SECONDS) -> None:
        """Return when `/health/ready` answers 200. Fails with the end of the log, at once if the process ended."""
        await self.wait_health("/health/ready", 200, timeout_seconds)

    async def wait_health(self, path: str, status: int, timeout_seconds: float = START_TIMEOUT_SECONDS) -> None:
        """Return when `path` answers with `status`."""
        last: object = "no answer"
        try:
            async with asyncio.timeout(timeout_seconds), httpx.AsyncClient(trust_env=False) as client:
                while True:
                    if not self.is_running:
                        raise AssertionError(f"{self.name} ended with {self.exit_code}:\n{self.last_words()}")
                    try:
                        response = await client.get(self.http_url + path)
                        last = response.text
                        if response.status_code == status:
                            return
                    except httpx.HTTPError as error:
                        last = error
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            raise AssertionError(
                f"{self.name}: {path} is not {status} in {timeout_seconds:g} s ({last}):\n{self.last_words()}"
            ) from None

    async def metric(self, sample: str) -> float:
        """The value of one sample of `/metrics`, named with its labels as exposed; 0 when it is not there."""
        async with httpx.AsyncClient(trust_env=False) as client:
            response = (await client.get(f"{self.http_url}/metrics")).raise_for_status()
        for line in response.text.splitlines():
            name, _, value = line.rpartition(" ")
            if name == sample:
                return float(value)
        return 0.0

    def send_signal(self, number: signal.Signals) -> None:
        """SIGSTOP, SIGCONT, SIGTERM and the like."""
        self._running().send_signal(number)

    async def wait_ended(self, timeout_seconds: float = STOP_TIMEOUT_SECONDS) -> int:
        """The exit code, as soon as there is one."""
        try:
            return await asyncio.to_thread(self._running().wait, timeout_seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} still runs after {timeout_seconds:g} s:\n{self.last_words()}") from None

    async def stop(self, timeout_seconds: float = STOP_TIMEOUT_SECONDS) -> int:
        """SIGTERM and the drain. Gives the exit code."""
        self.send_signal(signal.SIGTERM)
        return await self.wait_ended(timeout_seconds)

    def kill(self) -> None:
        """SIGKILL to the process and what it started. Nothing running is fine."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    @property
    def exit_code(self) -> int | None:
        return None if self._process is None else self._process.poll()

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def last_words(self) -> str:
        return "\n".join(self.log_text().splitlines()[-LOG_LINES_SHOWN:])

    def _running(self) -> subprocess.Popen[bytes] | Child:
        assert self._process is not None, f"{self.name} was not launched"
        return self._process

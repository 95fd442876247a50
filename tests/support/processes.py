"""Services as processes, as in production: `python -m services.X`, driven over HTTP and by signals."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import httpx

from tests.support.fork_server import ForkedProcess, ForkServer

START_TIMEOUT_SECONDS = 90.0
STOP_TIMEOUT_SECONDS = 45.0
POLL_SECONDS = 0.05
LOG_LINES_SHOWN = 60  # a traceback of a task group has 40


class ServiceProcess:
    """One process of `services.<service>`.

    `settings` are environment variables with their full names (`{"VASHSENDER_DATABASE_URL": ...}`). The process sees no
    other `VASHSENDER_*` variable and no `.env` file, since it runs in `folder`; its output goes to `folder/<name>.log`.
    `python` is the interpreter to use. If `fork_server` is set, the process is forked from it, unless it needs another
    interpreter or LD_PRELOAD.
    """

    fork_server: ClassVar[ForkServer | None] = None

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
        self._process: subprocess.Popen[bytes] | ForkedProcess | None = None

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def launch(self) -> None:
        """Starts the process and does not wait (see `wait_ready`). A process that ended may be launched again."""
        if self.fork_server and self._command[0] == sys.executable and "LD_PRELOAD" not in self._environment:
            self._process = self.fork_server.start(self._command[-1], self._environment, self._folder, self.log)
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
        """Returns when `/health/ready` says that every check is ok, those included that the process can do without.
        Fails with the end of the log, at once if the process ended."""
        await self.wait_health("/health/ready", 200, timeout_seconds, said='"status":"ok"')

    async def wait_health(
        self, path: str, status: int, timeout_seconds: float = START_TIMEOUT_SECONDS, *, said: str = ""
    ) -> None:
        """Returns when `path` answers with `status` and a body that contains `said`."""
        last: object = "no answer"
        try:
            async with asyncio.timeout(timeout_seconds), httpx.AsyncClient(trust_env=False, verify=False) as client:
                while True:
                    if not self.is_running:
                        raise AssertionError(f"{self.name} ended with {self.exit_code}:\n{self.log_tail()}")
                    try:
                        response = await client.get(self.http_url + path)
                        last = response.text
                        if response.status_code == status and said in response.text:
                            return
                    except httpx.HTTPError as error:
                        last = error
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            raise AssertionError(
                f"{self.name}: {path} is not {status} in {timeout_seconds:g} s ({last}):\n{self.log_tail()}"
            ) from None

    async def metric(self, sample: str) -> float:
        """The value of a sample of `/metrics`, named with its labels as exposed. 0 if it does not exist."""
        async with httpx.AsyncClient(trust_env=False, verify=False) as client:
            response = (await client.get(f"{self.http_url}/metrics")).raise_for_status()
        for line in response.text.splitlines():
            name, _, value = line.rpartition(" ")
            if name == sample:
                return float(value)
        return 0.0

    def send_signal(self, number: signal.Signals) -> None:
        """Sends a signal such as SIGSTOP, SIGCONT or SIGTERM."""
        self._running().send_signal(number)

    async def wait_ended(self, timeout_seconds: float = STOP_TIMEOUT_SECONDS) -> int:
        """Waits for the process to end. Returns its exit code."""
        try:
            return await asyncio.to_thread(self._running().wait, timeout_seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} still runs after {timeout_seconds:g} s:\n{self.log_tail()}") from None

    async def stop(self, timeout_seconds: float = STOP_TIMEOUT_SECONDS) -> int:
        """Sends SIGTERM and waits for the drain. Returns the exit code."""
        self.send_signal(signal.SIGTERM)
        return await self.wait_ended(timeout_seconds)

    async def wait_ended_cleanly(self, timeout_seconds: float = STOP_TIMEOUT_SECONDS) -> None:
        """Waits for the process to end. Fails with the end of the log if the exit code is not 0."""
        code = await self.wait_ended(timeout_seconds)
        assert code == 0, f"{self.name} ended with {code}:\n{self.log_tail()}"

    async def stop_cleanly(self, timeout_seconds: float = STOP_TIMEOUT_SECONDS) -> None:
        """Sends SIGTERM and waits for the drain. Fails with the end of the log if the exit code is not 0."""
        self.send_signal(signal.SIGTERM)
        await self.wait_ended_cleanly(timeout_seconds)

    def kill(self) -> None:
        """Sends SIGKILL to the process and its children. Does nothing if it is not running."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    @property
    def exit_code(self) -> int | None:
        return None if self._process is None else self._process.poll()

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def log_tail(self) -> str:
        return tail(self.log_text())

    def _running(self) -> subprocess.Popen[bytes] | ForkedProcess:
        assert self._process is not None, f"{self.name} was not launched"
        return self._process


def tail(log: str) -> str:
    """The lines of a log that explain a failure."""
    return "\n".join(log.splitlines()[-LOG_LINES_SHOWN:])

"""What each service reports to systemd, on a real datagram socket: sd_notify(3)."""

import asyncio
import os
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.ledger.database import Ledger
from shared.process import Process
from shared.settings import CommonSettings
from tests.conftest import ServiceFactory
from tests.support.relay import RecordingRelay
from tests.support.seeds import seed_campaign

SECONDS = 100.0  # processes start slowly on a busy machine
pytestmark = pytest.mark.timeout(400)

NO_BROKER = "amqp://nobody:nothing@127.0.0.1:1/none"  # no broker listens there


class Systemd:
    """The receiving end: messages and the processes that sent them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.socket.bind(str(path))
        self.socket.settimeout(0.1)
        self.told: list[tuple[int, str]] = []

    def settings(self, url: str, watchdog_seconds: float = 0.0, **settings: str) -> dict[str, str]:
        """The environment of a service started by this systemd, without a broker."""
        return {
            "NOTIFY_SOCKET": str(self.path),
            **({"WATCHDOG_USEC": f"{watchdog_seconds * 1e6:.0f}"} if watchdog_seconds else {}),
            "VASHSENDER_DATABASE_URL": url,
            "VASHSENDER_AMQP_URL": NO_BROKER,
            **{f"VASHSENDER_{name.upper()}": value for name, value in settings.items()},
        }

    def hear(self) -> None:
        try:
            text, ancillary, _, _ = self.socket.recvmsg(4096, socket.CMSG_SPACE(12))
        except TimeoutError:
            return
        [(_, _, credentials)] = ancillary
        self.told.append((struct.unpack("3i", credentials)[0], text.decode()))

    async def wait(self, condition: Callable[[str], bool], pid: int) -> str:
        """Waits for the first message from now on that meets the condition."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            before = len(self.told)
            await asyncio.to_thread(self.hear)
            for teller, text in self.told[before:]:
                assert teller == pid
                if condition(text):
                    return text
        raise AssertionError(f"not in {SECONDS:g} s; told was {self.told[-10:]}")

    async def silence(self, word: str, seconds: float) -> None:
        """Fails if a message contains `word` within the given seconds."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            before = len(self.told)
            await asyncio.to_thread(self.hear)
            assert [text for _, text in self.told[before:] if word in text] == []


@pytest.fixture
def systemd() -> Iterator[Systemd]:
    # tmp_path may be too long for a socket.
    path = Path("/tmp") / f"vashsender-notify-{os.getpid()}.sock"
    path.unlink(missing_ok=True)
    listening = Systemd(path)
    yield listening
    listening.socket.close()
    path.unlink()


@pytest.mark.parametrize("service", ["api", "dispatcher", "sender", "watchdog"])
async def test_a_service_reports_start_life_and_stop_and_reopens_its_log(
    service: str, systemd: Systemd, service_process: ServiceFactory, sqlite_url: str, tmp_path: Path
) -> None:
    log = tmp_path / "own.log"
    relay = "smtp://127.0.0.1:1?tls=none"
    process = service_process(
        service, systemd.settings(sqlite_url, watchdog_seconds=1.0, relays=relay, log_file=str(log)), name="stdout"
    )
    await systemd.wait(lambda text: text == "READY=1", process.pid)
    # Without a broker the start does not wait, and systemctl shows what the service waits for.
    await systemd.wait(lambda text: text.startswith("STATUS=waiting for") and "broker" in text, process.pid)
    for _ in range(2):
        await systemd.wait(lambda text: text == "WATCHDOG=1", process.pid)

    assert log.stat().st_mode & 0o777 == 0o600
    log.rename(tmp_path / "own.log.1")
    process.send_signal(signal.SIGHUP)
    await systemd.wait(lambda _: log.exists(), process.pid)

    process.send_signal(signal.SIGTERM)
    await systemd.wait(lambda text: text.startswith("STOPPING=1"), process.pid)
    await process.wait_ended_cleanly()
    assert "service.started" in (tmp_path / "own.log.1").read_text()
    assert "service.stopped" in log.read_text()
    assert process.log_text() == ""


async def test_a_recycling_sender_reports_it_and_stays_the_same_process(
    systemd: Systemd, service_process: ServiceFactory, sqlite_url: str
) -> None:
    relay = RecordingRelay()
    relay.start()
    ledger = Ledger(sqlite_url)
    try:
        await seed_campaign(ledger, recipients=3)
        process = service_process(
            "sender",
            systemd.settings(
                sqlite_url,
                relays=relay.url,
                slot="sender-1",
                recycle_after_batches="1",
                ticket_patience_seconds="0",
                log_file="sender.log",
            ),
            name="stdout",
        )
        await systemd.wait(lambda text: text == "READY=1", process.pid)
        await systemd.wait(lambda text: text.startswith("RELOADING=1\nMONOTONIC_USEC="), process.pid)
        await systemd.wait(lambda text: text == "READY=1", process.pid)
        assert not any("STOPPING" in text for _, text in systemd.told)
        assert process.is_running
    finally:
        await ledger.close()
        relay.stop()


async def _hang() -> None:
    await asyncio.Event().wait()


async def _fail() -> None:
    raise OSError("the database is away")


@pytest.fixture
def process(systemd: Systemd, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> Process[CommonSettings]:
    """A service running inside this process."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(systemd.path))
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    settings: dict[str, Any] = {"database_url": sqlite_url, "amqp_url": NO_BROKER, "hung_seconds": 0.5}
    return Process("watchdog", CommonSettings(**settings))


async def test_a_hanging_tick_stops_the_sign_of_life(systemd: Systemd, process: Process[CommonSettings]) -> None:
    async with process._reporting(), asyncio.TaskGroup() as group:
        clock = group.create_task(process.clock(_hang, 0.1))
        await systemd.wait(lambda text: text == "WATCHDOG=1", os.getpid())
        await systemd.wait(lambda text: text.startswith("STATUS=hung: a tick of _hang has lasted"), os.getpid())
        await systemd.silence("WATCHDOG=1", 1.0)
        clock.cancel()
    await process.ledger.close()


async def test_failing_long_or_waiting_ticks_do_not_count_as_hanging(
    systemd: Systemd, process: Process[CommonSettings]
) -> None:
    async def wait_for_the_database() -> None:
        while True:
            with pytest.raises(OSError, match="away"):
                async with process.ledger.read():
                    raise OSError("the database is away")
            await asyncio.sleep(0.1)

    ticks = [
        process.clock(_fail, 0.1),
        process.clock(_hang, 0.1, may_last=True),
        process.clock(wait_for_the_database, 0.1),
    ]
    async with process._reporting(), asyncio.TaskGroup() as group:
        tasks = [group.create_task(tick) for tick in ticks]
        began = time.monotonic()
        while time.monotonic() - began < 1.5:
            await systemd.wait(lambda text: text == "WATCHDOG=1", os.getpid())
        for task in tasks:
            task.cancel()
    await process.ledger.close()

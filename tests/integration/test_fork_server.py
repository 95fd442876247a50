"""The fork server of the tests: a test that runs into its timeout spoils none of those after it."""

import os
import signal
from pathlib import Path

import pytest

from tests.support.fork_server import ForkedProcess, ForkServer

WRONG_SETTINGS = 78


def start(server: ForkServer, folder: Path) -> ForkedProcess:
    """Starts a service that ends at once, because a setting is wrong."""
    folder.mkdir()
    environment = {"VASHSENDER_DATABASE_URL": folder.name, "VASHSENDER_VAR_DIR": str(folder)}
    return server.start("services.watchdog", environment, folder, folder / "log")


def test_a_start_that_is_interrupted_spoils_no_other(tmp_path: Path) -> None:
    server = ForkServer()
    try:
        assert start(server, tmp_path / "first").wait(60) == WRONG_SETTINGS
        first = server._process
        assert first is not None
        os.kill(first.pid, signal.SIGSTOP)
        server._socket.settimeout(0.2)
        with pytest.raises(TimeoutError):
            start(server, tmp_path / "interrupted")
        os.kill(first.pid, signal.SIGCONT)
        assert start(server, tmp_path / "next").wait(60) == WRONG_SETTINGS
        assert "VASHSENDER_DATABASE_URL" in (tmp_path / "next" / "log").read_text()
        assert first.wait(60) == 0, "it ends after the service of the interrupted start"
    finally:
        server.stop()

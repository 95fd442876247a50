"""A test run leaves no process running after Ctrl-C or SIGTERM; after a kill the next run cleans up."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.running import lives

ROOT = Path(__file__).parents[2]
TIMEOUT_SECONDS = 60.0
A_TEST_THAT_HANGS = """
import os, signal
from pathlib import Path

def test_hangs(postgres):
    report = Path(os.environ["REPORT"])
    draft = report.with_suffix(".draft")
    draft.write_text((postgres.cluster / "postmaster.pid").read_text().split()[0])
    draft.rename(report)
    signal.pause()
"""
A_TEST_THAT_PASSES = "def test_passes(): pass"


def start_pytest(folder: Path, test: str) -> subprocess.Popen[str]:
    file = folder / "test_nested.py"
    file.write_text(test)
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-c", str(ROOT / "pyproject.toml"), str(file)]
    plugins_that_start_slowly = ["-p", "no:schemathesis", "-p", "no:hypothesispytest", "-p", "no:xdist"]
    return subprocess.Popen(
        [*command, "--rootdir", str(ROOT), "-p", "no:cacheprovider", *plugins_that_start_slowly],
        cwd=ROOT,
        env={**os.environ, "REPORT": str(folder / "postmaster"), "PYTEST_XDIST_WORKER": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def postmaster_of(nested: subprocess.Popen[str], folder: Path) -> psutil.Process:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    report = folder / "postmaster"
    while not report.exists():
        assert nested.poll() is None, nested.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return psutil.Process(int(report.read_text()))


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    nested = start_pytest(tmp_path, A_TEST_THAT_HANGS)
    with nested:
        yield nested
        nested.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_stops_its_servers(
    hanging: subprocess.Popen[str], tmp_path: Path, number: signal.Signals
) -> None:
    postmaster = postmaster_of(hanging, tmp_path)
    for _ in range(3):  # again, as a person would: Python may swallow a Ctrl-C inside a finalizer
        hanging.send_signal(number)
        try:
            output, _ = hanging.communicate(timeout=TIMEOUT_SECONDS / 3)
            break
        except subprocess.TimeoutExpired:
            continue
    assert "KeyboardInterrupt" in output
    assert not lives(postmaster)


def test_the_next_run_stops_the_servers_of_a_killed_one(hanging: subprocess.Popen[str], tmp_path: Path) -> None:
    postmaster = postmaster_of(hanging, tmp_path)
    hanging.kill()
    hanging.wait()
    assert lives(postmaster)
    with start_pytest(tmp_path, A_TEST_THAT_PASSES) as nested:
        output, _ = nested.communicate(timeout=TIMEOUT_SECONDS)
    assert nested.returncode == 0, output
    assert not lives(postmaster)

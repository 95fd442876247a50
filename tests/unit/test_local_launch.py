"""Programs in the background, on systems with and without Linux's own ways."""

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cli.local.background import start_in_background

ADOPTS = """
import os, sys
{without}
from cli.local import launch
lock = os.open(sys.argv[1], os.O_RDWR)
launch._adopt_holder(lock)
sys.exit(7)
"""
HOLDS = """
import fcntl, os, signal, sys
lock = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(lock, fcntl.LOCK_EX)
os.write(lock, b"%d 1\\n" % os.getpid())
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
sys.stdout.write("held\\n"); sys.stdout.flush()
signal.sigwait([signal.SIGTERM])
"""


def test_a_program_outlives_the_one_that_started_it_in_its_own_session(tmp_path: Path) -> None:
    told = tmp_path / "told"
    script = "import os, sys; open(sys.argv[1] + '.new', 'w').write(f'{os.getsid(0)} {os.getppid()} {os.getpid()}');"
    script += "os.rename(sys.argv[1] + '.new', sys.argv[1])"
    with (tmp_path / "log").open("wb") as log:
        start_in_background([sys.executable, "-c", script, str(told)], tmp_path, log, umask=0o077)
    deadline = time.monotonic() + 60
    while not told.exists():
        assert time.monotonic() < deadline, (tmp_path / "log").read_text()
        time.sleep(0.01)
    session, parent, pid = map(int, told.read_text().split())
    assert session == pid != os.getsid(0)
    assert parent != os.getpid()
    assert told.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("without", ["", "del os.pidfd_open"])
def test_it_stands_in_for_an_adopted_program_and_passes_signals_on(tmp_path: Path, without: str) -> None:
    lock = tmp_path / "program.lock"
    script = ADOPTS.format(without=without)
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(lock)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with subprocess.Popen([sys.executable, "-c", script, str(lock)], stderr=subprocess.PIPE, text=True) as stand_in:
            assert stand_in.stderr is not None
            assert f"adopted process {holder.pid}" in stand_in.stderr.readline()
            stand_in.terminate()
            assert holder.wait(100) == 0
            assert stand_in.wait(100) == 1
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

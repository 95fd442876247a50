"""A real supervisord with small programs, which are started, killed, adopted, scaled and stopped."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from cli.local.programs import Program
from cli.local.supervise import State, Supervisor
from tests.support.waiting import wait_for

WORK = """
import os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print(os.environ["WORD"], flush=True)
while True:
    signal.pause()
"""
STUBBORN = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
while True:
    signal.pause()
"""


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    supervisor = Supervisor(tmp_path / "run", tmp_path / "log")
    supervisor.start(tmp_path)
    yield supervisor
    if supervisor.is_running:
        supervisor.stop([state.name for state in supervisor.states()])
        supervisor.shut_down()
    for pid in supervisor.holders().values():
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def program(tmp_path: Path) -> Callable[..., Program]:
    def make(name: str, code: str = WORK, word: str = "hello", stop_seconds: float = 10.0) -> Program:
        log = tmp_path / "log" / f"{name}.log"
        return Program(name, [sys.executable, "-c", code], {"WORD": word}, log, stop_seconds, ready_url="", ports={})

    return make


def states(supervisor: Supervisor) -> dict[str, State]:
    return {state.name: state for state in supervisor.states()}


def is_running(supervisor: Supervisor, name: str) -> bool:
    state = states(supervisor)[name]
    return state.state == "RUNNING" and state.pid in supervisor.holders().values()


def kill_supervisord(supervisor: Supervisor) -> None:
    pid = int(supervisor.pid_file.read_text())
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not psutil.pid_exists(pid))


def test_a_program_gets_exactly_its_environment_and_its_own_log(
    supervisor: Supervisor, program: Callable[..., Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_CALLER", "1")
    supervisor.add([program("worker", word="good day")])
    wait_for(lambda: is_running(supervisor, "worker"))
    [pid] = supervisor.holders().values()
    assert psutil.Process(pid).environ() == {"WORD": "good day"}
    wait_for(lambda: (supervisor.log_dir / "worker.log").read_text() == "good day\n")


def test_only_the_owner_can_read_any_file(supervisor: Supervisor, program: Callable[..., Program]) -> None:
    supervisor.add([program("worker")])
    wait_for(lambda: is_running(supervisor, "worker"))
    files = [path for folder in (supervisor.run_dir, supervisor.log_dir) for path in folder.rglob("*")]
    files.append(supervisor.socket)  # elsewhere if the folder's name is too long for a socket
    assert {"supervisor.sock", "supervisord.pid", "supervisord.log", "worker.json", "worker.log"} <= {
        path.name for path in files
    }
    assert [path for path in files if path.stat().st_mode & 0o077] == []


def test_a_killed_program_is_restarted_and_counted(supervisor: Supervisor, program: Callable[..., Program]) -> None:
    supervisor.add([program("worker")])
    wait_for(lambda: is_running(supervisor, "worker"))
    first = states(supervisor)["worker"]
    os.kill(first.pid, signal.SIGKILL)
    assert first.starts == 1
    wait_for(lambda: is_running(supervisor, "worker") and states(supervisor)["worker"].starts == 2)
    assert states(supervisor)["worker"].pid != first.pid


def test_a_failing_program_is_restarted_with_back_off(supervisor: Supervisor, program: Callable[..., Program]) -> None:
    supervisor.add([program("broken", code="import sys; print('no use', flush=True); sys.exit(78)")])
    wait_for(lambda: (supervisor.log_dir / "broken.log").exists())
    wait_for(lambda: (supervisor.log_dir / "broken.log").read_text().count("no use") >= 3)
    state = states(supervisor)["broken"]
    assert state.state in ("BACKOFF", "STARTING")
    assert state.exit_code in (0, 78)  # 0 during a restart


def test_programs_of_a_killed_supervisord_are_adopted_and_not_duplicated(
    supervisor: Supervisor, program: Callable[..., Program], tmp_path: Path
) -> None:
    supervisor.add([program("one"), program("two")])
    wait_for(lambda: is_running(supervisor, "one") and is_running(supervisor, "two"))
    before = supervisor.holders()
    kill_supervisord(supervisor)
    assert supervisor.holders() == before
    supervisor.start(tmp_path)
    wait_for(lambda: is_running(supervisor, "one") and is_running(supervisor, "two"))
    assert {name: state.pid for name, state in states(supervisor).items()} == before
    assert {state.starts for state in supervisor.states()} == {1}

    os.kill(before["one"], signal.SIGKILL)  # an adopted program is supervised like any other
    wait_for(lambda: is_running(supervisor, "one") and supervisor.holders().get("one", before["one"]) != before["one"])

    supervisor.stop(["two"])  # and stopped like any other
    assert "two" not in supervisor.holders()


def test_a_program_runs_once_however_often_it_is_launched(
    supervisor: Supervisor, program: Callable[..., Program]
) -> None:
    supervisor.add([program("worker")])
    wait_for(lambda: is_running(supervisor, "worker"))
    before = supervisor.holders()
    second = subprocess.Popen([sys.executable, "-m", "cli.local.launch", str(supervisor.run_dir), "worker"])
    wait_for(lambda: "adopted process" in (supervisor.log_dir / "worker.log").read_text())
    assert supervisor.holders() == before
    second.kill()
    second.wait()
    assert supervisor.holders() == before


def test_programs_keep_their_process_when_others_are_added_or_removed(
    supervisor: Supervisor, program: Callable[..., Program]
) -> None:
    supervisor.add([program("sender-1"), program("sender-2")])
    wait_for(lambda: is_running(supervisor, "sender-1"))
    first = supervisor.holders()["sender-1"]
    assert supervisor.add([program("sender-1", word="changed"), program("sender-3")]) == ["sender-3"]
    supervisor.remove("sender-2")
    wait_for(lambda: is_running(supervisor, "sender-3"))
    assert sorted(states(supervisor)) == ["sender-1", "sender-3"]
    assert supervisor.holders()["sender-1"] == first

    supervisor.stop(["sender-1"])  # a configuration written meanwhile applies from the next start
    supervisor.start_program("sender-1")
    wait_for(lambda: (supervisor.log_dir / "sender-1.log").read_text() == "hello\nchanged\n")


def test_stop_ends_all_at_once_even_those_that_ignore_sigterm(
    supervisor: Supervisor, program: Callable[..., Program]
) -> None:
    names = [f"stubborn-{number}" for number in range(3)]
    supervisor.add([program(name, code=STUBBORN, stop_seconds=1) for name in names])
    wait_for(lambda: len(supervisor.holders()) == 3)
    wait_for(lambda: all(is_running(supervisor, name) for name in names))
    began = time.monotonic()
    supervisor.stop(names)
    assert supervisor.holders() == {}
    assert time.monotonic() - began < 6


def test_a_long_path_gets_a_short_socket(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    supervisor = Supervisor(folder / "run", folder / "log")
    supervisor.start(tmp_path)
    try:
        assert supervisor.is_running
        assert supervisor.socket.parent.stat().st_mode & 0o077 == 0
        assert Supervisor(folder / "run", folder / "log").is_running
    finally:
        supervisor.shut_down()
        supervisor.socket.unlink(missing_ok=True)
        supervisor.socket.parent.rmdir()


def test_a_path_with_spaces_and_percents_works(tmp_path: Path) -> None:
    folder = tmp_path / "100% mine, really"
    supervisor = Supervisor(folder / "run", folder / "log")
    supervisor.start(tmp_path)
    program = Program("worker", [sys.executable, "-c", WORK], {"WORD": "x"}, folder / "log" / "worker.log", 5, "", {})
    try:
        supervisor.add([program])
        wait_for(lambda: is_running(supervisor, "worker"))
    finally:
        supervisor.stop(["worker"])
        supervisor.shut_down()

"""Log files: rotated while they are written, shown in order of time; actions of operators are recorded."""

import json
import os
from pathlib import Path

import pytest

from cli.local import launch, rotate_logs
from cli.local.control import control
from cli.local.log_files import show_logs
from cli.settings import LocalSettings
from shared.errors import DataError


@pytest.fixture
def config(tmp_path: Path) -> LocalSettings:
    return LocalSettings(var_dir=tmp_path / "var")


def line(timestamp: str, **more: str) -> str:
    return json.dumps({"timestamp": timestamp, "level": "info", "event": "x", "instance": "i", **more}) + "\n"


def test_a_file_is_rotated_while_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotate_logs, "ROTATE_BYTES", 10)
    path = tmp_path / "sender-1.log"
    writer = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for number in range(5):
        os.write(writer, b"number %d, long\n" % number)
        rotate_logs.rotate_running(tmp_path)
    os.write(writer, b"last\n")
    os.close(writer)
    assert path.read_text() == "last\n"
    kept = sorted(tmp_path.glob("sender-1.log.*"))
    assert [old.read_text() for old in kept] == ["number 4, long\n", "number 3, long\n", "number 2, long\n"]
    assert {old.stat().st_mode & 0o777 for old in kept} == {0o600}
    assert len(kept) == launch.KEPT


def test_small_files_and_the_supervisors_own_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotate_logs, "ROTATE_BYTES", 10)
    (tmp_path / "api.log").write_text("short\n")
    (tmp_path / "supervisord.log").write_text("longer than ten\n")
    rotate_logs.rotate_running(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_an_action_is_recorded_with_person_time_and_result(config: LocalSettings) -> None:
    with control(config, "scale sender=4") as result:
        result.text = "started: sender-4"
    with pytest.raises(DataError), control(config, "stop"):
        raise DataError("no")
    log = config.logs / "control.log"
    first, second = map(json.loads, log.read_text().splitlines())
    assert (first["action"], first["result"]) == ("scale sender=4", "started: sender-4")
    assert (second["action"], second["result"]) == ("stop", "DataError: no")
    assert first["instance"]
    assert first["timestamp"].endswith("Z")
    assert log.stat().st_mode & 0o777 == 0o600


def test_lines_of_several_files_come_in_order_of_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "api.log").write_text(line("2026-01-01T00:00:01Z") + line("2026-01-01T00:00:03Z"))
    (tmp_path / "sender-1.log").write_text(line("2026-01-01T00:00:02Z") + line("2026-01-01T00:00:04Z"))
    show_logs(tmp_path, "", follow=False, lines=3, campaign="", raw=True)
    shown = [json.loads(text)["timestamp"][-3:] for text in capsys.readouterr().out.splitlines()]
    assert shown == ["02Z", "03Z", "04Z"]


def test_logs_of_a_campaign_come_from_all_services(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise = "".join(line("2026-01-01T00:00:02Z") for _ in range(5000))
    (tmp_path / "api.log").write_text(line("2026-01-01T00:00:01Z", campaign_id="wanted") + noise)
    (tmp_path / "sender-1.log").write_text(line("2026-01-01T00:00:03Z", campaign_id="wanted"))
    show_logs(tmp_path, "", follow=False, lines=50, campaign="wanted", raw=True)
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_logs_of_a_campaign_include_rotated_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, name in enumerate(("api.log.2", "api.log.1", "api.log")):
        (tmp_path / name).write_text("".join(line(f"2026-01-01T00:00:{number}{each}Z") for each in range(3)))
    show_logs(tmp_path, "api", follow=False, lines=5, campaign="", raw=True)
    shown = [json.loads(text)["timestamp"][-3:] for text in capsys.readouterr().out.splitlines()]
    assert shown == ["11Z", "12Z", "20Z", "21Z", "22Z"]


def test_a_service_means_all_its_processes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("sender-1", "sender-2", "senderless"):
        (tmp_path / f"{name}.log").write_text(line("2026-01-01T00:00:01Z", event=name))
    show_logs(tmp_path, "sender", follow=False, lines=50, campaign="", raw=True)
    assert {json.loads(text)["event"] for text in capsys.readouterr().out.splitlines()} == {"sender-1", "sender-2"}
    with pytest.raises(DataError, match="sender-2, senderless"):
        show_logs(tmp_path, "nobody", follow=False, lines=50, campaign="", raw=True)

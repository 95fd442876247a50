"""`vashsender dkim new` creates a key that only its owner can read, and prints the record to publish."""

import json
import stat
from pathlib import Path

import pytest

from cli.main import run


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VASHSENDER_DKIM_DIR", raising=False)


def test_a_key_and_its_record_are_created(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["dkim", "new", "example.com", "--selector", "one", "--dir", str(tmp_path), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    path = tmp_path / "example.com.one.pem"
    assert made["path"] == str(path)
    assert made["name"] == "one._domainkey.example.com"
    assert made["text"].startswith("v=DKIM1; k=rsa; p=")
    assert made["active"] is True
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_record_stands_alone_on_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["dkim", "new", "example.com", "--selector", "one", "--dir", str(tmp_path)]) == 0
    told = capsys.readouterr()
    assert told.out.startswith('one._domainkey.example.com. IN TXT ( "v=DKIM1;')
    assert len(told.out.splitlines()) == 1
    assert "Publish the record" in told.err


@pytest.mark.parametrize(
    ("arguments", "exit_code", "word"),
    [
        (["example.com"], 78, "--dir"),
        (["not a domain", "--dir", "."], 65, "a space"),
        (["example.com", "--selector", "NO!", "--dir", "."], 65, "selector"),
    ],
)
def test_errors_are_reported(
    arguments: list[str],
    exit_code: int,
    word: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["dkim", "new", *arguments]) == exit_code
    assert word in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []

"""Secrets on disk: no one else can read them, whatever existed before."""

import stat
from pathlib import Path

import pytest

from cli.access_files import Servers, write
from cli.main import run
from shared.dkim_keys import new_key
from shared.errors import ConfigurationError, DataError
from shared.secret_files import create_private, private_folder, secret_in, write_private
from shared.settings import CommonSettings, load


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def open_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o755)
    return folder


def test_an_open_folder_is_closed_before_passwords_go_there(tmp_path: Path) -> None:
    folder = open_folder(tmp_path)
    write(folder, Servers())
    assert mode(folder) == 0o700


def test_a_folder_that_may_be_shared_is_refused_and_gets_no_secret(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = open_folder(tmp_path)
    (folder / "public").mkdir()
    assert run(["access", "new", str(folder)]) == ConfigurationError.exit_code
    assert f"chmod 700 {folder}" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["public"]
    assert mode(folder) == 0o755


def test_a_folder_that_groups_cannot_enter_may_hold_folders(tmp_path: Path) -> None:
    folder = open_folder(tmp_path)
    (folder / "more").mkdir()
    folder.chmod(0o700)
    private_folder(folder)


def test_the_generated_secret_key_closes_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    folder.mkdir()
    folder.chmod(0o755)
    [key] = load(CommonSettings, var_dir=tmp_path).secret_keys
    assert (mode(folder), mode(folder / "secret_key")) == (0o700, 0o600)
    assert load(CommonSettings, var_dir=tmp_path).secret_keys == (key,)


def test_a_new_file_never_replaces_another_and_leaves_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "key"
    assert create_private(path, b"first")
    assert not create_private(path, b"second")
    assert (path.read_bytes(), mode(path), list(tmp_path.iterdir())) == (b"first", 0o600, [path])


def test_a_file_that_others_could_read_is_replaced_by_a_private_one(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("old")
    path.chmod(0o644)
    write_private(path, "new")
    assert (path.read_text(), mode(path)) == ("new", 0o600)


def test_a_secret_is_generated_once(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "secret"
    assert secret_in(path) == secret_in(path)
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)


def test_a_dkim_key_closes_its_folder(tmp_path: Path) -> None:
    folder = open_folder(tmp_path)
    key = new_key(folder, "example.com", "one")
    assert (mode(folder), mode(key.path)) == (0o700, 0o600)
    with pytest.raises(DataError, match="exists already"):
        new_key(folder, "example.com", "one")

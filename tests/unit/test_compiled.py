"""Compiled modules are used only while they are what their sources say."""

import subprocess
import sys
from pathlib import Path
from shutil import copyfile

import pytest

from shared.compiled import ROOT, SUFFIX, is_compiled, library_of
from shared.errors import ConfigurationError


def installed(root: Path, *sources: str) -> list[Path]:
    """Sources, and files with the names that a build gives to their compiled modules and library."""
    paths = [root / source for source in sources]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {path.name}\n")
        path.with_suffix(SUFFIX).touch()
    (root / "shared").mkdir(exist_ok=True)
    (root / f"{library_of(paths).replace('.', '/')}__mypyc{SUFFIX}").touch()
    return paths


def test_without_compiled_modules_the_sources_run(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    assert not is_compiled(tmp_path)


def test_modules_that_are_what_their_sources_say_are_used(tmp_path: Path) -> None:
    installed(tmp_path, "services/sender/feed.py", "shared/email_tokens.py")
    assert is_compiled(tmp_path)


def test_a_source_that_has_changed_is_refused_with_what_to_do(tmp_path: Path) -> None:
    feed, _ = installed(tmp_path, "services/sender/feed.py", "shared/email_tokens.py")
    feed.write_text("# another release\n")
    with pytest.raises(
        ConfigurationError, match=r"not those of its sources: run `make compiled`, or `make uncompiled`"
    ):
        is_compiled(tmp_path)


def test_a_source_that_is_gone_is_refused(tmp_path: Path) -> None:
    feed, _ = installed(tmp_path, "services/sender/feed.py", "shared/email_tokens.py")
    feed.unlink()
    with pytest.raises(ConfigurationError, match=r"services/sender/feed.py is gone"):
        is_compiled(tmp_path)


def test_a_build_that_was_not_finished_is_refused(tmp_path: Path) -> None:
    installed(tmp_path, "services/sender/feed.py")
    (library,) = (tmp_path / "shared").iterdir()
    library.unlink()
    with pytest.raises(ConfigurationError, match="make compiled"):
        is_compiled(tmp_path)


def test_text_that_moves_to_another_source_is_a_change(tmp_path: Path) -> None:
    first, second = installed(tmp_path, "shared/a.py", "shared/b.py")
    first.write_text(first.read_text() + second.read_text())
    second.write_text("")
    with pytest.raises(ConfigurationError, match="make compiled"):
        is_compiled(tmp_path)


def test_a_module_that_was_compiled_by_another_build_is_refused(tmp_path: Path) -> None:
    installed(tmp_path, "services/sender/feed.py")
    installed(tmp_path, "shared/email_tokens.py")
    with pytest.raises(ConfigurationError, match="make compiled"):
        is_compiled(tmp_path)


def test_the_digest_is_the_same_for_relative_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    relative = [Path("shared/providers.py"), Path("services/sender/feed.py")]
    assert library_of(relative) == library_of([ROOT / path for path in reversed(relative)])


def test_a_service_says_so_before_it_imports_anything_else(tmp_path: Path) -> None:
    for name in ("services/__init__.py", "shared/__init__.py", "shared/compiled.py", "shared/errors.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        copyfile(ROOT / name, tmp_path / name)
    (feed,) = installed(tmp_path, "services/sender/feed.py")
    feed.write_text("# another release\n")
    command = [sys.executable, "-m", "services.sender"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == ConfigurationError.exit_code
    assert ended.stderr.startswith("services: the compiled modules in ")
    assert "make compiled" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1

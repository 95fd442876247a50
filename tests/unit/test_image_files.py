"""The Dockerfile and its .dockerignore, without building them; tests/deploy/test_image.py builds them."""

import re
import tomllib
from pathlib import Path

from cli.effective import fields, variable
from tests.support import dockerfile

ROOT = Path(__file__).parents[2]
IGNORE = (ROOT / ".dockerignore").read_text().splitlines()


def test_the_base_has_a_version_and_can_be_replaced() -> None:
    base = next(rest for word, rest in dockerfile.instructions() if word == "ARG")
    assert re.fullmatch(r"BASE=docker\.io/library/python:3\.11-slim-bookworm(@sha256:[0-9a-f]{64})?", base)
    stages = [rest for word, rest in dockerfile.instructions() if word == "FROM"]
    assert [stage.partition(" ")[0] for stage in stages] == ["${BUILD_BASE}", "${BASE}"]


def test_dependencies_are_locked_and_no_index_is_named() -> None:
    text = dockerfile.FILE.read_text()
    assert "--require-hashes -r requirements/run.txt" in text
    assert "--require-hashes -r requirements/compile.txt" in text
    locks = (ROOT / "requirements" / name for name in ("run.txt", "compile.txt"))
    for path in (dockerfile.FILE, *locks):
        assert not re.search(r"https?://|--index-url|--extra-index-url|--trusted-host|--find-links", path.read_text())


def test_the_build_context_has_only_what_the_dockerfile_copies() -> None:
    assert next(line for line in IGNORE if not line.startswith("#")) == "*"
    let_through = {line[1:] for line in IGNORE if line.startswith("!")}
    copied: set[str] = set()
    for word, rest in dockerfile.instructions():
        if word == "COPY" and "--from" not in rest:
            copied |= set(rest.split()[:-1])
        copied |= set(re.findall(r"source=([\w/]+)", rest)) if word == "RUN" else set()
    assert copied == let_through
    assert all((ROOT / name).exists() for name in copied)


def test_it_runs_as_an_unprivileged_user() -> None:
    stage = dockerfile.last_stage()
    assert [rest for word, rest in stage if word == "USER"] == ["10001:10001"]
    assert dockerfile.entrypoint() == ["vashsender"]
    assert ("CMD", '["run", "api"]') in stage
    assert dockerfile.health_check()[0] == "python3", "exec form: no shell is needed"


def test_its_environment_consists_of_settings() -> None:
    known = {variable(name) for _, name, _ in fields()} | {"PATH", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"}
    environment = dockerfile.environment()
    assert environment.keys() <= known
    assert ("EXPOSE", environment["VASHSENDER_HTTP_PORT"]) in dockerfile.last_stage()


def test_its_version_is_current() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert ("ARG", f"VERSION={version}") in dockerfile.last_stage()

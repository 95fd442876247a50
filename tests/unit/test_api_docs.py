"""docs/api.md names every kind of problem that the API can answer with, its status, and no others."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.api.rest import mount
from services.api.usecases.errors import RefusedError
from services.api.web.problems import status_of

ROOT = Path(__file__).parents[2]
NAMED_AFTER_STATUS = {("400", "bad-request"), ("405", "method-not-allowed"), ("421", "misdirected-request")}
ROW = re.compile(r"^\| (\d{3}) \| (.*?) \|", re.MULTILINE)


def kinds(of: type[RefusedError] = RefusedError) -> Iterator[type[RefusedError]]:
    for one in of.__subclasses__():
        yield from kinds(one)
        if hasattr(one, "kind") and not one.__module__.startswith("services.api.page"):
            yield one


def test_every_problem_is_documented() -> None:
    assert mount.PARTS, "the modules that define errors are imported"
    document = (ROOT / "docs/api.md").read_text()
    documented = {(status, kind) for status, cell in ROW.findall(document) for kind in re.findall(r"`([a-z-]+)`", cell)}
    answered = {(str(status_of(kind.__new__(kind))), kind.kind) for kind in kinds()}
    assert documented == answered | NAMED_AFTER_STATUS


@pytest.mark.parametrize("kind", list(kinds()), ids=lambda kind: kind.__name__)
def test_every_kind_says_what_it_is(kind: type[RefusedError]) -> None:
    assert re.fullmatch("[a-z-]+", kind.kind)
    assert kind.title
    assert not kind.title.endswith(".")

"""Every dependency that is locked has a licence that fits Apache-2.0; those of docs: tests/e2e/test_docs_site.py."""

from importlib.metadata import PackageNotFoundError

import pytest

from tests.support.licences import ALLOWED, ROOT, licences, locked

LOCKED = sorted({*locked("run.txt"), *locked("dev.txt")})


@pytest.mark.parametrize("package", LOCKED)
def test_its_licence_fits(package: str) -> None:
    try:
        found = licences(package)
    except PackageNotFoundError:
        pytest.fail(f"{package} is locked and not installed: run make .venv/.developing")
    assert found, f"{package} names no licence"
    assert found <= ALLOWED, f"{package}: {found - ALLOWED}"


def test_the_project_says_its_own() -> None:
    assert (ROOT / "LICENSE").read_text().lstrip().startswith("Apache License")
    assert len(LOCKED) > 80

"""Builds the image once for all tests that use it."""

import os
from collections.abc import Iterator

import pytest

from tests.support.containers import Image, built_image


@pytest.fixture(scope="session")
def image() -> Iterator[Image]:
    """The image, built on Debian 12's own Python."""
    if os.geteuid() != 0:
        pytest.fail("building an image needs root: sudo make test-deploy")
    with built_image(["python3", "python3-venv"]) as built:
        yield built

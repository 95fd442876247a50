"""The image is built once for all that runs it."""

import os
from collections.abc import Iterator

import pytest

from tests.support.containers import Image, built_image


@pytest.fixture(scope="session")
def image() -> Iterator[Image]:
    """What the Dockerfile makes on Debian 12's own Python."""
    if os.geteuid() != 0:
        pytest.fail("building an image needs root: sudo make test-deploy")
    with built_image(["python3", "python3-venv"]) as built:
        yield built

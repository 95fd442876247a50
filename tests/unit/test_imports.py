"""What a service imports when it starts stays in its memory until it ends."""

import subprocess
import sys

import pytest

RARELY_NEEDED = {"alembic", "charset_normalizer", "cryptography", "dns", "httpx", "mako", "pygments", "rich"}
"""Packages of megabytes that few installations or requests need. They are imported where they are used."""

SIGNS = {"cryptography"}


@pytest.mark.parametrize(
    ("service", "needs"),
    [
        ("api", set()),
        ("dispatcher", set()),
        ("feedback", set()),
        ("sender", SIGNS),
        ("watchdog", set()),
        ("webhooks", set()),
    ],
)
def test_a_service_imports_only_what_it_needs_all_the_time(service: str, needs: set[str]) -> None:
    program = f"import sys, services.{service}.main; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert RARELY_NEEDED & set(loaded) == needs

"""Logs say what failed, without the values of local variables."""

import logging
from collections.abc import Iterator
from typing import Literal

import pytest
import structlog

from shared import logs


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    structlog.reset_defaults()
    logging.root.handlers, logging.root.level = handlers, level


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_an_exception_is_logged_without_secrets(
    log_format: Literal["text", "json"], capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("api", "api-1", log_format=log_format, level="INFO")

    def sign_in(token: str) -> None:
        raise ValueError("it is damaged")

    for log in (logs.get(), logging.getLogger("another library")):
        try:
            sign_in("vs_" + "s" * 10)
        except ValueError:
            log.exception("failed")
    said = capsys.readouterr().out
    assert said.count("ValueError: it is damaged") == 2
    assert "s" * 10 not in said

"""Deferred recipients that wait for their provider are told apart from those that wait for their retry."""

from types import SimpleNamespace
from typing import Any

import pytest

from services.api.usecases.provider_waits import waiting_for


def row(**changes: Any) -> SimpleNamespace:
    usual = {
        "status": "deferred",
        "email": "ann@googlemail.com",
        "attempts": 1,
        "smtp_code": 451,
        "enhanced_code": "4.7.1",
        "reply": "Greylisted",
        "relay": "mx.example",
    }
    return SimpleNamespace(**{**usual, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"attempts": 0},
        {"reply": "waits for gmail: at most 5 emails in flight over mx.example", "smtp_code": None},
        {"smtp_code": 421, "enhanced_code": "4.7.28", "reply": "an unusual rate of mail"},
        {"smtp_code": 550, "enhanced_code": "5.7.1", "reply": "blocked using Spamhaus"},
    ],
)
def test_it_waits_for_its_provider(changes: dict[str, Any]) -> None:
    assert waiting_for(row(**changes)) == "gmail at mx.example"


@pytest.mark.parametrize("changes", [{}, {"status": "failed", "attempts": 0}, {"smtp_code": None, "reply": None}])
def test_it_waits_for_its_own_retry(changes: dict[str, Any]) -> None:
    assert waiting_for(row(**changes)) is None

"""The log has the replies of relays, without addresses."""

from typing import Any

import pytest
import structlog
from structlog.testing import CapturingLogger

from services.sender.smtp.contract import Outcome, Verdict
from services.sender.smtp.observe import LogObserver
from shared.faults.meaning import Consequence
from shared.relays.replies import Stage, without_addresses
from tests.support.smtp.mail import Letter

ACCEPTED = Outcome(Verdict.ACCEPTED, "mx", Stage.DOT, 250, "2.0.0", "2.0.0 Ok: queued as 1", "1", seconds=0.0123)
REFUSED = Outcome(
    Verdict.PERMANENT,
    "mx",
    Stage.RCPT,
    550,
    "5.1.1",
    "5.1.1 <bob@example.net>: unknown",
    consequence=Consequence.SUPPRESS,
)


@pytest.fixture
def log() -> CapturingLogger:
    return CapturingLogger()


def observer(log: CapturingLogger, level: int, monkeypatch: pytest.MonkeyPatch) -> LogObserver:
    wrapper = structlog.make_filtering_bound_logger(level)
    bound = structlog.wrap_logger(log, processors=[lambda _logger, _name, event: ((), event)], wrapper_class=wrapper)
    monkeypatch.setattr(structlog, "get_logger", lambda *_args: bound)
    return LogObserver(lambda _job: {"campaign_id": "c1"})


def events(log: CapturingLogger) -> list[tuple[str, dict[str, Any]]]:
    return [(call.method_name, call.kwargs) for call in log.calls]


def test_a_refusal_is_logged_at_info_level(log: CapturingLogger, monkeypatch: pytest.MonkeyPatch) -> None:
    observer(log, 20, monkeypatch).attempt(Letter(), REFUSED)
    ((level, event),) = events(log)
    assert level == "info"
    assert event == {
        "event": "smtp_attempt",
        "campaign_id": "c1",
        "verdict": "permanent",
        "relay": "mx",
        "stage": "rcpt",
        "code": 550,
        "enhanced": "5.1.1",
        "fault": "recipient",
        "consequence": "suppress",
        "reply": "5.1.1 <<address>>: unknown",
        "queue_id": None,
        "seconds": 0.0,
    }


def test_an_acceptance_is_logged_at_debug_level(log: CapturingLogger, monkeypatch: pytest.MonkeyPatch) -> None:
    observer(log, 10, monkeypatch).attempt(Letter(), ACCEPTED)
    ((level, event),) = events(log)
    assert (level, event["queue_id"], event["seconds"]) == ("debug", "1", 0.012)


def test_an_acceptance_costs_nothing_above_debug_level(log: CapturingLogger, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = observer(log, 20, monkeypatch)
    monkeypatch.setattr(quiet, "_fields", lambda _job: pytest.fail("an event was put together"))
    quiet.attempt(Letter(), ACCEPTED)
    assert events(log) == []


def test_a_relay_that_rests_is_a_warning(log: CapturingLogger, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = observer(log, 20, monkeypatch)
    quiet.relay("mx", "resting", "mail: 451 not now", 2.04)
    quiet.relay("mx", "up", "", 0.0)
    assert [(level, event["state"], event["reason"]) for level, event in events(log)] == [
        ("warning", "resting", "mail: 451 not now"),
        ("info", "up", ""),
    ]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<bob@example.net>... User unknown", "<<address>>... User unknown"),
        ("bob@example.net: unknown", "<address>: unknown"),
        ('"bob smith"@example.net unknown', "<address> unknown"),
        ("jürgen@bücher.example", "<address>"),
        ("no address", "no address"),
    ],
)
def test_addresses_are_replaced(text: str, shown: str) -> None:
    assert without_addresses(text) == shown

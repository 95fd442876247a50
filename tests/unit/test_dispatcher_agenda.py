"""Which campaigns a round looks at, and how much of that is remembered."""

from uuid import uuid4

import pytest

from services.dispatcher import agenda
from services.dispatcher.agenda import OUT_LATELY_SECONDS, Agenda


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock, which a test can set."""
    clock = [1000.0]
    monkeypatch.setattr("services.dispatcher.agenda.time.monotonic", lambda: clock[0])
    return clock


def test_no_number_of_events_takes_more_than_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the database is away, no round takes what events name."""
    monkeypatch.setattr(agenda, "MOST_NAMED", 5)
    known = Agenda()
    for _ in range(20):
        known.name(uuid4())
    asked = known.take()
    assert len(asked) == 5
    known.name_all([*asked, uuid4()])
    assert known.take() == asked


def test_a_campaign_is_watched_for_a_while_after_its_last_batch_came_back(now: list[float]) -> None:
    known, campaign = Agenda(), uuid4()
    known.are_out([campaign])
    known.are_out([])
    assert set(known.out_lately()) == {campaign}
    now[0] += OUT_LATELY_SECONDS
    known.are_out([])
    assert not known.out_lately()


def test_a_campaign_that_waits_is_looked_at_when_its_time_has_come(now: list[float]) -> None:
    known, campaign = Agenda(), uuid4()
    known.look_in(campaign, 60.0)
    assert not known.take()
    now[0] += 60.0
    assert known.take() == {campaign}

"""The service webhooks looks at each tick while there is something to tell, and once a second otherwise."""

import pytest

from services.webhooks.pace import Pace


def test_it_looks_often_only_while_there_is_something(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("services.webhooks.pace.time.monotonic", lambda: now)
    tried = Pace()
    looks = []
    for tick in range(100):
        now = 1000.0 + 0.2 * tick
        looks.append(tried.is_due())
        if tick == 20:
            tried.found()
    assert sum(looks[:20]) == 4, "idle: once a second"
    assert looks[0]
    assert all(looks[21:45]), "for five seconds after a find"
    assert 8 <= sum(looks[50:]) <= 10

"""Limits by a fake clock: in no second more than 1.1 x rate + 1 emails, whatever stalls; caps; warm-up."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.sender.lane import Lane
from shared.ledger.rate_limits import (
    AHEAD_SECONDS,
    LEAST_VALID_SECONDS,
    MOST_AHEAD_SECONDS,
    DatabaseClock,
    Limit,
    Slot,
    period_at,
    take_room,
    tolerance,
)
from tests.support.limits import limit, most_in_a_second

STEP_SECONDS = 0.005
RUN_SECONDS = 6.0
START = 1_000_000_000.0
PERIOD = period_at(START)


@dataclass
class FakeSender:
    """Emails of one group of scopes that never run out; it does nothing while it is stalled."""

    lane: Lane
    stalls: Sequence[tuple[float, float]] = ()
    latency: float = 0.0
    on_the_way: list[tuple[float, Sequence[tuple[float, float]], float]] = field(default_factory=list)

    def step(self, now: float, limits: Mapping[str, Limit], begun: list[tuple[float, Sequence[str]]]) -> None:
        if any(begin <= now - START < begin + length for begin, length in self.stalls):
            return
        for reply in [reply for reply in self.on_the_way if reply[0] <= now]:
            self.on_the_way.remove(reply)
            granted = [Slot(*slot) for slot in reply[1]]
            self.lane.grant(granted, PERIOD, reply[2], reply[2] - AHEAD_SECONDS)
        self.lane.lose_slots(now)
        while self.lane.begun_slot(now) is not None:
            self.lane.note_begun(now)
            begun.append((now, self.lane.scopes))
        self.lane.hungry = True
        if not self.on_the_way and self.lane.ask_at <= now and (wanted := self.lane.wanted(now)):
            slots, free_at, _ = take_room([limits[scope] for scope in self.lane.scopes], wanted, now)
            self.on_the_way.append((now + self.latency, slots, free_at))


def run(senders: Sequence[FakeSender], limits: Mapping[str, Limit]) -> dict[str, list[float]]:
    """When emails began, by scope."""
    begun: list[tuple[float, Sequence[str]]] = []
    for step in range(int(RUN_SECONDS / STEP_SECONDS)):
        for sender in senders:
            sender.step(START + step * STEP_SECONDS, limits, begun)
    return {scope: [at for at, scopes in begun if scope in scopes] for scope in limits}


stalls = st.lists(st.tuples(st.floats(0.0, 5.0), st.floats(0.05, 3.0)), max_size=4)
rates = st.one_of(st.integers(1, 200).map(float), st.floats(0.3, 60.0))


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(rates, rates, rates),
    st.lists(st.tuples(st.sampled_from([("a",), ("a", "p"), ("b", "p")]), stalls, st.floats(0.0, 0.15)), min_size=1),
)
def test_no_second_has_more_emails_than_any_limit_allows_whatever_stalls(
    chosen: tuple[float, float, float], shapes: list[tuple[tuple[str, ...], list[tuple[float, float]], float]]
) -> None:
    limits = {scope: limit(scope, rate) for scope, rate in zip(("a", "b", "p"), chosen, strict=True)}
    begun = run([FakeSender(Lane(scopes, START), at, latency) for scopes, at, latency in shapes[:4]], limits)
    for scope, rate in zip(limits, chosen, strict=True):
        assert most_in_a_second(begun[scope]) <= 1.1 * rate + 1


@pytest.mark.parametrize("rate", [1.0, 3.0, 7.5, 20.0, 150.0])
@pytest.mark.parametrize("senders", [1, 2, 3])
def test_nothing_is_lost_of_a_limit_that_is_asked_for(rate: float, senders: int) -> None:
    limits = {"a": limit("a", rate)}
    begun = run([FakeSender(Lane(("a",), START), latency=0.02) for _ in range(senders)], limits)
    assert len(begun["a"]) >= 0.9 * rate * RUN_SECONDS - 1


@pytest.mark.parametrize(("own", "shared"), [(5.0, 5.0), (5.0, 7.0), (10.0, 100.0), (30.0, 20.0)])
def test_two_limits_at_once_cost_little_of_the_lower(own: float, shared: float) -> None:
    limits = {"a": limit("a", own), "b": limit("b", own), "p": limit("p", shared)}
    senders = [FakeSender(Lane((scope, "p"), START), latency=0.02) for scope in ("a", "b")]
    begun = run(senders, limits)
    assert len(begun["p"]) >= 0.85 * min(2 * own, shared) * RUN_SECONDS - 1


@given(st.floats(0.1, 5000.0))
def test_the_places_in_a_second_and_the_tolerance_are_as_many_as_are_allowed(rate: float) -> None:
    assert tolerance(rate) >= LEAST_VALID_SECONDS
    assert math.ceil(rate * (1 + tolerance(rate)) - 1e-6) <= 1.1 * rate + 1 + 1e-6


def test_a_limit_that_was_raised_takes_hold_at_once() -> None:
    slow = limit("a", 0.01)
    take_room([slow], 1, START)
    assert take_room([slow], 1, START + 1)[1] == pytest.approx(START + 100)
    slow.emails_per_second = 10.0
    slow.begin(START + 1.25)
    assert take_room([slow], 1, START + 1.25)[1] == pytest.approx(START + 1.75)
    slow.begin(START + 1.75)
    assert take_room([slow], 1, START + 1.75)[0][0][0] == pytest.approx(START + 1.75)


def test_a_cap_gives_room_for_no_more_than_is_left_and_begins_again() -> None:
    capped = limit("a", None, emails_per_hour=5, hour=PERIOD.hour, hour_count=3)
    assert len(take_room([capped], 10, START)[0]) == 2
    slots, free_at, full = take_room([capped], 10, START)
    assert slots == ()
    assert full["a"][1] == "the limit of 5 emails an hour"
    assert free_at == (PERIOD.hour + 1) * 3600
    capped.begin(free_at)
    assert len(take_room([capped], 10, free_at)[0]) == 5


def test_a_clock_that_steps_back_opens_no_cap_again() -> None:
    capped = limit("a", None, emails_per_day=5, day=PERIOD.day, day_count=5)
    capped.begin(START - 86400)
    assert capped.full(START - 86400) is not None


def test_a_warm_up_grows_from_day_to_day_until_it_is_over() -> None:
    warm = limit("relay:r", None, warmup_start=100, warmup_growth=2.0, warmup_until=1000, warmup_day=50)
    assert [warm.day_cap(day) for day in range(50, 56)] == [100, 200, 400, 800, None, None]
    warm.emails_per_day = 500
    assert [warm.day_cap(day) for day in range(50, 56)] == [100, 200, 400, 500, 500, 500]


def test_the_emails_until_a_moment_are_those_of_each_day_and_hour() -> None:
    noon = PERIOD.day * 86400 + 43200.0
    warm = limit("relay:r", None, warmup_start=100, warmup_growth=2.0, warmup_until=1000, warmup_day=PERIOD.day)
    assert warm.emails_until(noon, noon + 2 * 86400) == 100 + 200 + 400
    used = limit("project:p", None, emails_per_day=500, day=PERIOD.day, day_count=480)
    assert used.emails_until(noon, noon + 86400) == 20 + 500
    hourly = limit("project:p", 1.0, emails_per_hour=10)
    assert hourly.emails_until(noon, noon + 3 * 3600) == 30
    assert limit("a", 2.0).emails_until(noon, noon + 100) == 200
    assert limit("a", None).emails_until(noon, noon + 100) == math.inf


def test_a_step_of_the_databases_clock_is_noticed_and_nothing_is_reserved_twice() -> None:
    clock = DatabaseClock()
    clock.note(10.0, 1010.0, 10.2)
    clock.note(11.0, 1011.0, 11.1)
    assert clock.latest(1011.0) - clock.earliest(1011.0) == pytest.approx(0.1, abs=0.01), "the narrower reading counts"
    assert clock.reserve_from == 0.0
    clock.note(12.0, 1012.5, 12.01)
    assert clock.reserve_from == pytest.approx(1012.5 + MOST_AHEAD_SECONDS)
    assert clock.latest(1012.5) == pytest.approx(12.01, abs=0.003)


@given(st.lists(st.tuples(st.floats(0, 0.003), st.floats(0, 0.003)), min_size=2, max_size=50))
def test_a_clock_that_counts_milliseconds_has_not_stepped(readings: list[tuple[float, float]]) -> None:
    """SQLite's clock; the seconds are those of a quick reading, and from one reading to the next."""
    clock, moment = DatabaseClock(), 10.0
    for takes, pause in readings:
        before, after = moment, moment + takes
        clock.note(before, 1000.0 + math.floor((before + after) / 2 * 1000) / 1000, after)
        moment = after + pause
    assert clock.reserve_from == 0.0

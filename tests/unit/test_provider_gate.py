"""Where rows wait whose provider has a limit: they come first, campaigns take turns, and others are not kept."""

import math
import time
from collections.abc import Sequence
from unittest.mock import MagicMock
from uuid import UUID

import pytest
from prometheus_client import CollectorRegistry

from services.sender import provider_gate
from services.sender.held_batch import HeldBatch, StopCause
from services.sender.held_batches import HeldBatches
from services.sender.limits import Limits
from services.sender.metrics import SenderMetrics
from services.sender.provider_gate import ProviderGate, _Lane
from shared.ledger import provider_shares
from shared.ledger.provider_shares import Key, Need, fair_share
from shared.providers import Provider, Providers
from tests.support.held import held_batch, row
from tests.unit.test_sender_feed import LEDGER, SETTINGS, unrecorded

RELAY = "mx"
KEY = Key(RELAY, "gmail")


@pytest.fixture
def gate() -> ProviderGate:
    batches = HeldBatches(SenderMetrics(CollectorRegistry(), SETTINGS))
    limits = Limits(LEDGER, batches.metrics, lambda: None, providers=Providers(with_table=True))
    return ProviderGate(LEDGER, "sender@test", limits, SETTINGS.lease_seconds, batches)


def lend(gate: ProviderGate, share: int) -> None:
    """As if the ledger had given this share."""
    assert gate.key_of(RELAY, "person@gmail.com") == KEY
    lane = gate._lanes[KEY]
    lane.share, lane.valid_until = share, time.monotonic() + 60
    lane.recorded = share
    gate._open[KEY] = None


def settled(gate: ProviderGate) -> _Lane:
    """The lane, as if the ledger had been asked."""
    lane = gate._lanes[KEY]
    lane.settled_at = time.monotonic()
    return lane


def next_row(gate: ProviderGate, relay: str = RELAY) -> int | None:
    found = gate.next(relay, time.monotonic(), lambda _held: True)
    if isinstance(found, float):
        return None
    key, waiting = found
    gate.started(key)
    return waiting.row.id


def wait(gate: ProviderGate, held: HeldBatch, *ids: int) -> list[bool]:
    return [gate.wait(KEY, held, row(one), time.monotonic()) for one in ids]


def test_a_provider_without_a_limit_has_no_key(gate: ProviderGate) -> None:
    assert gate.key_of(RELAY, "person@example.test") is None
    assert gate.key_of(RELAY, "Person@GoogleMail.com") == KEY


def test_no_more_than_the_share_is_in_flight(gate: ProviderGate) -> None:
    held = held_batch()
    lend(gate, 2)
    now = time.monotonic()
    assert gate.admits(KEY, held, now)
    gate.started(KEY)
    gate.started(KEY)
    assert not gate.admits(KEY, held, now)
    assert wait(gate, held, 1, 2) == [True, True]
    assert next_row(gate) is None
    gate.ended(KEY, 0.1)
    assert not gate.admits(KEY, held, now), "those that wait come first"
    assert next_row(gate) == 1
    assert next_row(gate) is None
    assert held.rows_waiting == 1


def test_nothing_starts_once_the_lease_of_the_share_is_over(gate: ProviderGate) -> None:
    lend(gate, 2)
    gate._lanes[KEY].valid_until = time.monotonic() - 1
    assert not gate.admits(KEY, held_batch(), time.monotonic())


def test_campaigns_take_turns(gate: ProviderGate) -> None:
    large, small = held_batch(), held_batch()
    lend(gate, 0)
    wait(gate, large, 1, 2, 3)
    wait(gate, small, 11)
    lend(gate, 9)
    assert [next_row(gate) for _ in range(5)] == [1, 11, 2, 3, None]


def test_rows_beyond_the_bound_are_deferred_one_after_the_other(
    gate: ProviderGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider_gate, "LEAST_WAITING", 1)
    monkeypatch.setattr(provider_gate, "MOST_WAITING", 1)
    held = held_batch()
    lend(gate, 1)
    assert wait(gate, held, 1, 2, 3) == [True, False, False]
    first, second = unrecorded(held)
    assert (first.status, first.attempts) == ("deferred", 0)
    assert first.reply == "waits for gmail: at most 5 emails in flight and 100 a second over mx"
    assert first.delay_seconds is not None
    assert second.delay_seconds is not None
    assert 2 <= first.delay_seconds < second.delay_seconds


def test_a_row_that_is_due_later_keeps_its_time(gate: ProviderGate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider_gate, "MOST_WAITING", 0)
    monkeypatch.setattr(provider_gate, "LEAST_WAITING", 0)
    held, now = held_batch(), time.monotonic()
    lend(gate, 1)
    assert not gate.wait(KEY, held, row(1, status="deferred", due_at=now + 10), now)
    assert (unrecorded(held), held.rows_waiting) == ([], 0)
    assert not gate.wait(KEY, held, row(2, status="deferred", due_at=now + 0.5), now)
    assert [result.recipient_id for result in unrecorded(held)] == [2]


def test_what_is_more_than_the_longest_delay_holds_comes_within_it(
    gate: ProviderGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider_gate, "MOST_DELAY_SECONDS", 4.0)
    held = held_batch()
    lend(gate, 1)
    settled(gate).usual = 0.5
    wait(gate, held, *range(30))
    delays = [result.delay_seconds or 0.0 for result in unrecorded(held)]
    assert len(delays) == 20
    assert all(2 <= seconds <= 4 for seconds in delays)
    assert len({round(seconds, 1) for seconds in delays}) >= 5, "they are spread, again and again"


def test_rows_with_much_data_are_bounded_in_bytes(gate: ProviderGate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider_gate, "MOST_WAITING_BYTES", 2500)
    held, now = held_batch(), time.monotonic()
    lend(gate, 0)
    large = [row(number, data="x" * 1000) for number in range(5)]
    assert [gate.wait(KEY, held, one, now) for one in large] == [True, True, True, False, False]
    lend(gate, 1)
    assert next_row(gate) == 0
    assert gate.wait(KEY, held, large[3], now), "one has left"


def test_rows_of_a_batch_that_stops_are_left(gate: ProviderGate) -> None:
    stopped, other = held_batch(), held_batch()
    lend(gate, 0)
    wait(gate, stopped, 1, 2)
    wait(gate, other, 3)
    assert not stopped.is_over
    stopped.stop_for(StopCause.NOT_SENDING, "paused")
    gate._look_at_waiting(time.monotonic())
    assert stopped.rows_waiting == 0
    lend(gate, 5)
    assert (next_row(gate), next_row(gate)) == (3, None)


def test_a_row_that_has_waited_for_long_is_deferred(gate: ProviderGate) -> None:
    held = held_batch()
    lend(gate, 0)
    wait(gate, held, 1)
    gate._look_at_waiting(time.monotonic() + provider_gate.LONGEST_WAIT_SECONDS + 1)
    assert [result.recipient_id for result in unrecorded(held)] == [1]
    assert held.rows_waiting == 0


def test_emails_that_take_no_time_are_no_infinite_speed(gate: ProviderGate) -> None:
    lend(gate, 1)
    lane = settled(gate)
    lane.provider = Provider("gmail", (), 1, None)
    lane.learn(0.0)
    assert lane.most_waiting() == provider_gate.MOST_WAITING


def test_a_pause_says_nothing_of_the_speed_and_nor_does_an_email_that_hangs(gate: ProviderGate) -> None:
    lend(gate, 5)
    lane = settled(gate)
    for seconds in (0.5, 0.5, 240.0):
        lane.learn(seconds)
    assert lane.seconds_per_email == 0.1
    lane.share = 2
    assert lane.seconds_per_email == 0.25


@pytest.mark.parametrize(("share", "seconds"), [(5, 0.01), (1, 0.05)])
def test_a_share_of_the_emails_in_flight_is_one_of_those_per_second(
    gate: ProviderGate, share: int, seconds: float
) -> None:
    lend(gate, share)
    lane = settled(gate)
    lane.learn(0.001)
    assert lane.seconds_per_email == pytest.approx(seconds), "100 per second, and 5 in flight"


def test_many_shares_are_settled_in_several_transactions(gate: ProviderGate) -> None:
    for number in range(provider_gate.MOST_SETTLED + 1):
        key = Key(RELAY, f"provider-{number}")
        gate._lanes[key] = _Lane(Provider(key.provider, (), 1), time.monotonic())
    now = time.monotonic()
    first = gate._unsettled(now)
    assert len(first) == provider_gate.MOST_SETTLED
    assert gate._claimed.is_set()
    for lane in first.values():
        lane.settled_at = now
    assert len(gate._unsettled(now)) == 1


def test_few_wait_for_a_slow_provider(gate: ProviderGate) -> None:
    held = held_batch()
    lend(gate, 1)
    settled(gate).learn(10.0)
    assert wait(gate, held, *range(6)) == [True] * 4 + [False] * 2


def test_rows_go_back_to_their_batch_when_another_relay_is_used(gate: ProviderGate) -> None:
    held = held_batch()
    held.worklist.add_slice([row(9)], 100)
    lend(gate, 0)
    wait(gate, held, 1, 2)
    assert gate.next("other", time.monotonic(), lambda _held: True) == math.inf
    assert [held.worklist.take().id for _ in range(len(held.worklist))] == [1, 2, 9]
    assert held.rows_waiting == 0


def test_a_batch_that_may_not_start_keeps_no_other_campaign(gate: ProviderGate) -> None:
    first, second = held_batch(), held_batch()
    lend(gate, 0)
    wait(gate, first, 1)
    wait(gate, second, 2)
    lend(gate, 5)
    found = gate.next(RELAY, time.monotonic(), lambda held: held is second)
    assert isinstance(found, tuple)
    assert (found[1].held, found[1].row) == (second, row(2))


@pytest.mark.parametrize("limit", [1, 5, 7])
@pytest.mark.parametrize("senders", [1, 2, 3, 9])
def test_fair_shares_add_up_to_the_limit_at_every_turn(limit: int, senders: int) -> None:
    names = [str(UUID(int=number)) for number in range(senders)]
    seen = dict.fromkeys(names, 0)
    for turn in range(senders):
        shares = {name: fair_share(limit, names, name, turn) for name in names}
        assert sum(shares.values()) == limit
        assert max(shares.values()) - min(shares.values()) <= 1
        for name, share in shares.items():
            seen[name] += share
    assert len(set(seen.values())) == 1, "over all turns everyone has the same"


def test_an_unused_lane_is_forgotten(gate: ProviderGate) -> None:
    lend(gate, 0)
    later = time.monotonic() + provider_gate.KEPT_SECONDS + 1
    assert gate._unsettled(later) == {}
    assert gate._lanes == {}


async def test_emails_beyond_a_share_are_given_back_once_they_have_ended(
    gate: ProviderGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger counts them until then: so it is told, although the share is gone."""
    told: list[Need] = []

    async def settle(_connection: object, _owner: str, needs: Sequence[Need], _seconds: float) -> dict[Key, int]:
        told.extend(needs)
        return {need.key: 0 for need in needs}

    monkeypatch.setattr(provider_shares, "settle", settle)
    monkeypatch.setattr(gate, "_ledger", MagicMock())
    lend(gate, 2)
    gate.started(KEY)
    await gate._settle(gate._unsettled(time.monotonic()))
    gate.ended(KEY, 60.0)
    lane = gate._lanes[KEY]
    lane.settled_at = lane.used_at = time.monotonic() - 60
    await gate._settle(gate._unsettled(time.monotonic()))
    assert [(need.in_flight, need.claims) for need in told] == [(1, True), (0, False)]
    assert gate._unsettled(time.monotonic()) == {}
    assert gate._lanes == {}

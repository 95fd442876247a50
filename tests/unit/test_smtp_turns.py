"""Relays with weights take turns in being preferred."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from services.sender.smtp.relay import Relay
from services.sender.smtp.turns import Turns
from tests.support.smtp.configs import engine_config, relay_config


def relay(name: str, weight: int = 0) -> Relay:
    return Relay(relay_config(25, name, weight=weight), engine_config(), None, lambda *_: None)


def names(turns: Turns) -> list[str]:
    return [relay.name for relay in turns.order]


@given(st.lists(st.integers(1, 50), min_size=2, max_size=5))
def test_turns_are_shared_by_weight(weights: list[int]) -> None:
    turns = Turns([relay(f"r{number}", weight) for number, weight in enumerate(weights)], 1.0)
    preferred = Counter[str]()
    for turn in range(2 * sum(weights)):
        turns.advance(float(turn))
        preferred[names(turns)[0]] += 1
    for number, weight in enumerate(weights):
        assert abs(preferred[f"r{number}"] - 2 * weight) <= 2


def test_a_turn_lasts_its_time() -> None:
    turns = Turns([relay("a", 1), relay("b", 1)], 2.0)
    turns.advance(10.0)
    first = names(turns)
    turns.advance(11.9)
    assert names(turns) == first
    turns.advance(12.0)
    assert names(turns) == first[::-1]


def test_relays_without_a_weight_keep_their_places() -> None:
    turns = Turns([relay("first"), relay("a", 1), relay("standby"), relay("b", 1)], 1.0)
    seen = set()
    for turn in range(4):
        turns.advance(float(turn))
        seen.add(tuple(names(turns)))
    assert seen == {("first", "a", "standby", "b"), ("first", "b", "standby", "a")}


def test_without_weights_the_order_stays() -> None:
    turns = Turns([relay("a"), relay("b", 5)], 1.0)
    for turn in range(5):
        turns.advance(float(turn))
        assert names(turns) == ["a", "b"]

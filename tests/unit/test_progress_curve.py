"""Which points of a progress curve are removed when there are too many."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from shared.ledger.history import crowded


def test_few_points_are_all_kept() -> None:
    assert crowded([], 3) == []
    assert crowded([1.0, 2.0, 3.0], 3) == []


def test_the_most_crowded_point_is_removed_first_and_the_ends_stay() -> None:
    assert crowded([0.0, 10.0, 11.0, 20.0, 30.0], 4) == [11.0]
    assert sorted(crowded([0.0, 10.0, 11.0, 20.0, 30.0], 2)) == [10.0, 11.0, 20.0]


@given(st.lists(st.floats(min_value=0, max_value=1e9), min_size=2, max_size=60, unique=True), st.integers(2, 20))
def test_first_and_last_always_stay(moments: list[float], keep: int) -> None:
    moments = sorted(moments)
    dropped = crowded(moments, keep)
    stay = [moment for moment in moments if moment not in dropped]
    assert len(stay) == min(keep, len(moments))
    assert (stay[0], stay[-1]) == (moments[0], moments[-1])


def test_points_added_one_by_one_stay_evenly_spread() -> None:
    """A day with a point per second: no part is much coarser than another."""
    kept: list[float] = []
    for second in range(86_400):
        kept.append(float(second))
        for moment in crowded(kept, 60):
            kept.remove(moment)
    gaps = [later - earlier for earlier, later in pairwise(kept)]
    assert max(gaps) <= 86_400 / 60 * 3

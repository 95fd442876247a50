"""When a deferred recipient is tried again."""

import pytest

from shared.retries import BY_SCHEDULE, doubling, parse_schedule, set_by_campaign, stored


def test_the_usual_schedule() -> None:
    schedule = parse_schedule("1m,5m,15m,30m,1h,2h+")
    assert [schedule.delay_after(attempts) for attempts in range(8)] == [60, 300, 900, 1800, 3600, 7200, 7200, 7200]


def test_the_old_guides_schedule_ends() -> None:
    schedule = parse_schedule("1m, 1m, 1m")
    assert [schedule.delay_after(attempts) for attempts in range(4)] == [60, 60, 60, None]


def test_a_campaigns_own_doubles_and_ends() -> None:
    schedule = doubling(60, 3)
    assert [schedule.delay_after(attempts) for attempts in range(4)] == [60, 120, 240, None]
    assert doubling(60, 0).delay_after(0) is None
    assert max(doubling(3600, 20).delays) == 86_400


@pytest.mark.parametrize("text", ["", "60", "1m,,2m", "1x", "m", "+", "0s", "30d", "1m+,2m"])
def test_what_is_no_schedule(text: str) -> None:
    with pytest.raises(ValueError, match="retry"):
        parse_schedule(text)


@pytest.mark.parametrize(
    ("given", "columns", "shown"),
    [
        ((None, None), (BY_SCHEDULE, 60), (None, None)),
        ((5, None), (5, 60), (5, 60)),
        ((None, 10), (3, 10), (3, 10)),
        ((0, None), (0, 60), (0, 60)),
        ((3, 60), (3, 60), (3, 60)),
    ],
)
def test_what_a_campaign_sets_is_kept(
    given: tuple[int | None, int | None], columns: tuple[int, int], shown: tuple[int | None, int | None]
) -> None:
    kept = stored(*given)
    assert (kept["max_retries"], kept["retry_delay_seconds"]) == columns
    assert set_by_campaign(*columns) == shown

"""Which campaign is served next, and how large a batch is."""

from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.dispatcher.deadline import Deadline
from services.dispatcher.fairness import Fairness, candidates, window
from services.dispatcher.release import LEAST_SPLIT, batch_emails
from services.dispatcher.survey import OpenCampaign, Survey
from shared.settings import DispatcherSettings, load
from tests.support.limits import limit


def campaign(number: int, **values: object) -> OpenCampaign:
    standing = OpenCampaign(
        id=UUID(int=number),
        project_id=UUID(int=1),
        status="sending",
        reopen=None,
        priority=0,
        emails_per_second=None,
        total=1000,
        cursor=0,
        overdue=False,
        out=0,
        released=0,
        due=False,
        unheld=False,
        live=False,
        uncut=True,
    )
    for name, value in values.items():
        setattr(standing, name, value)
    return standing


def order(campaigns: list[OpenCampaign], releases: int, capacity: int = 8) -> list[int]:
    """The campaigns that are served, one after the other, when each has enough to release."""
    fairness, survey, served = Fairness(), Survey(campaigns, capacity, {}), []
    for _ in range(releases):
        one = fairness.next(campaigns, survey)
        fairness.served(one, fresh=True)
        served.append(one.id.int)
    return served


def test_equals_alternate() -> None:
    assert order([campaign(1), campaign(2), campaign(3)], 6) == [1, 2, 3, 1, 2, 3]


def test_the_fewest_batches_out_come_first() -> None:
    assert order([campaign(1, out=4), campaign(2, out=1), campaign(3, out=2)], 4) == [2, 3, 2, 3]


def test_a_campaign_with_nothing_out_comes_before_any_priority() -> None:
    assert order([campaign(1), campaign(2, priority=9)], 4) == [2, 1, 2, 2]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-5, 5), st.sampled_from([None, 1.0])), min_size=1, max_size=8))
def test_no_campaign_starves(shapes: list[tuple[int, int, float | None]]) -> None:
    """With room for all, every campaign is served within as many releases as there are campaigns."""
    campaigns = [
        campaign(number, out=out, priority=priority, emails_per_second=rate)
        for number, (out, priority, rate) in enumerate(shapes, 1)
    ]
    waiting = {one.id.int for one in campaigns if one.out == 0}
    assert waiting <= set(order(campaigns, len(campaigns), capacity=100))


def test_campaigns_with_a_rate_limit_leave_half_of_the_slots_to_others() -> None:
    paced = [campaign(number, emails_per_second=1.0) for number in (1, 2, 3)]
    assert order([*paced, campaign(4)], 5, capacity=4) == [1, 2, 4, 4, 4]
    assert sorted(order([campaign(number, emails_per_second=1.0) for number in (1, 2, 3)], 3, capacity=4)) == [1, 2, 3]


def test_new_batches_and_retries_alternate() -> None:
    fairness, one = Fairness(), campaign(1)
    assert not fairness.wants_fresh(one), "what is due goes first"
    fairness.served(one, fresh=False)
    assert fairness.wants_fresh(one)
    fairness.served(one, fresh=True)
    assert not fairness.wants_fresh(one)


def test_closed_campaigns_are_forgotten() -> None:
    fairness, one, two = Fairness(), campaign(1), campaign(2)
    fairness.served(one, fresh=False)
    fairness.served(two, fresh=False)
    fairness.forget([two])
    assert not fairness.wants_fresh(one)
    assert fairness.wants_fresh(two)


@pytest.mark.parametrize(
    "values",
    [
        {"status": "paused"},
        {"status": "stopping"},
        {"overdue": True},
        {"reopen": "failed"},
        {"uncut": False},
    ],
)
def test_nothing_is_released_of_these(values: dict[str, object]) -> None:
    assert candidates(Survey([campaign(1, **values)], 2, {})) == []


def test_what_is_out_under_a_limit_holds_back_its_campaign_only() -> None:
    limited, other = campaign(1, emails_per_second=5.0, emails_out=26), campaign(2)
    assert candidates(Survey([limited, other], 2, {})) == [other]
    limited.emails_out = 25
    assert candidates(Survey([limited, other], 2, {})) == [limited, other], "five seconds of its rate"
    slow = {f"project:{UUID(int=1)}": limit(f"project:{UUID(int=1)}", 4.0)}
    assert candidates(Survey([limited, other], 2, slow)) == [other], "the lowest rate counts"


def test_a_cap_that_is_used_up_holds_back_its_campaigns_until_the_next_period() -> None:
    elsewhere = campaign(2, project_id=UUID(int=2))
    full = limit(f"project:{UUID(int=1)}", None, emails_per_hour=10, hour=100, hour_count=10)
    survey = Survey([campaign(1), elsewhere], 2, {full.scope: full}, now=100 * 3600.0 + 5)
    assert candidates(survey) == [elsewhere]
    assert len(candidates(replace(survey, now=101 * 3600.0))) == 2


def test_the_window_has_a_floor() -> None:
    settings = load(DispatcherSettings)
    assert [window(settings, capacity) for capacity in (0, 1, 2, 10)] == [2, 2, 4, 20]


@pytest.mark.parametrize(
    ("total", "capacity", "rate", "expected"),
    [
        (1_000_000, 4, None, 500),
        (1000, 4, None, 250),
        (1000, 0, None, 500),
        (1001, 4, None, 251),
        (30, 4, None, LEAST_SPLIT),
        (1_000_000, 4, 10.0, 300),
        (1_000_000, 4, 0.001, 1),
        (0, 4, None, LEAST_SPLIT),
    ],
)
def test_how_many_recipients_a_batch_holds(total: int, capacity: int, rate: float | None, expected: int) -> None:
    assert batch_emails(load(DispatcherSettings), total, capacity, rate) == expected


async def test_a_deadline_passes_only_after_its_time() -> None:
    long, none = Deadline(60.0), Deadline(0.0)
    assert not long.has_passed()
    assert none.has_passed()
    assert none.cut_short
    assert not long.cut_short
    await none.pause()

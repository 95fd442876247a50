"""Which campaign is served next, and how large a batch is."""

import time
from collections import Counter
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.dispatcher import fairness
from services.dispatcher.deadline import Deadline
from services.dispatcher.fairness import LONGEST_WAIT_EVERY, Fairness, window
from services.dispatcher.paces import MOST_KEPT, PATIENCE_SECONDS, Paces
from services.dispatcher.release import LEAST_SPLIT, batch_emails
from services.dispatcher.survey import OpenCampaign, Survey
from shared.ledger.rate_limits import Limit
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
        due_in=None,
        unheld=False,
        live=False,
        uncut=True,
    )
    for name, value in values.items():
        setattr(standing, name, value)
    return standing


class Shop:
    """Projects with campaigns that always have something to release, and a window of places."""

    def __init__(self, *campaigns: OpenCampaign) -> None:
        self.fairness = Fairness()
        self.campaigns = {one.id: one for one in campaigns}
        for one in campaigns:
            self.note(one)

    def note(self, one: OpenCampaign, *, ready: bool = True) -> None:
        limited = one.emails_per_second is not None
        self.fairness.note(one.id, one.project_id, priority=one.priority, limited=limited, out=one.places, ready=ready)

    def release(self, capacity: int = 8) -> int:
        """Serves the next campaign; returns its number."""
        survey = Survey(self.campaigns, capacity, {})
        chosen = self.fairness.next(limited_last=survey.limited_out >= max(capacity // 2, 1))
        assert chosen is not None
        self.campaigns[chosen].out += 1
        self.fairness.served(chosen, fresh=True)
        return chosen.int

    def come_back(self, number: int) -> None:
        """A sender has finished a batch."""
        one = self.campaigns[UUID(int=number)]
        one.out -= 1
        self.note(one)


def order(campaigns: list[OpenCampaign], releases: int, capacity: int = 8) -> list[int]:
    """The campaigns that are served, one after the other, when each has enough to release."""
    shop = Shop(*campaigns)
    return [shop.release(capacity) for _ in range(releases)]


def of(project: int, number: int, **values: object) -> OpenCampaign:
    return campaign(number, project_id=UUID(int=project), **values)


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
    assert sorted(order([*paced, campaign(4)], 5, capacity=4)) == [1, 2, 4, 4, 4]
    assert sorted(order([campaign(number, emails_per_second=1.0) for number in (1, 2, 3)], 3, capacity=4)) == [1, 2, 3]


def test_a_project_with_a_thousand_campaigns_gets_one_share() -> None:
    shop = Shop(*(of(1, number) for number in range(1, 1001)), of(2, 2001), of(3, 3001), of(3, 3002))
    out: list[int] = []
    shares = Counter[int]()
    for _ in range(300):
        if len(out) == 6:
            shop.come_back(out.pop(0))
        out.append(shop.release())
        shares[shop.campaigns[UUID(int=out[-1])].project_id.int] += 1
    assert max(shares.values()) - min(shares.values()) <= 6, shares


def test_priorities_count_within_a_project_only() -> None:
    assert order([of(1, 1, priority=9), of(1, 2, priority=9), of(2, 3)], 2) == [1, 3]


def test_a_low_priority_is_served_although_higher_ones_always_have_work() -> None:
    """One place: the high ones have nothing out again each time."""
    shop = Shop(*(campaign(number, priority=9) for number in (1, 2, 3)), campaign(4, priority=-9))
    served = []
    for _ in range(4 * LONGEST_WAIT_EVERY):
        served.append(shop.release())
        shop.come_back(served[-1])
    assert 4 in served


def test_the_highest_priority_of_a_project_comes_first_with_and_without_rate_limits() -> None:
    """Two projects that were never served; the first one has only campaigns with a rate limit."""
    limited, low, high = of(1, 1, priority=-2, emails_per_second=1.0), of(2, 2, priority=-1), of(2, 3)
    high.emails_per_second = 1.0
    assert Shop(limited, low, high).release(capacity=1000) == 3


STEP = st.tuples(
    st.sampled_from(["serve", "serve", "serve", "back", "note", "unready", "forget"]),
    st.integers(1, 9),
    st.integers(-2, 2),
    st.sampled_from([None, 1.0]),
)


@given(st.lists(STEP, max_size=60))
def test_heaps_agree_with_the_rule(steps: list[tuple[str, int, int, float | None]]) -> None:
    """Whatever happens, the campaign served is the least by the rule, which is written here once more."""
    shop = Shop()
    ready: set[UUID] = set()
    project_served: Counter[UUID] = Counter()
    releases: Counter[UUID] = Counter()
    served: Counter[UUID] = Counter()
    for number, (kind, which, priority, rate) in enumerate(steps, 1):
        one = shop.campaigns.setdefault(
            UUID(int=which), of(which % 3, which, priority=priority, emails_per_second=rate)
        )
        if kind == "note":
            one.priority, one.emails_per_second = priority, rate
            shop.note(one)
            ready.add(one.id)
        elif kind == "back" and one.out:
            shop.come_back(which)
            ready.add(one.id)
        elif kind == "unready":
            shop.fairness.nothing_ready(one.id)
            ready.discard(one.id)
        elif kind == "forget":
            shop.fairness.forget(one.id)
            ready.discard(one.id)
            del shop.campaigns[one.id], served[one.id]
        elif kind == "serve" and ready:
            out = Counter[UUID]()
            for each in shop.campaigns.values():
                out[each.project_id] += each.places

            def project_rank(id_: UUID, out: Counter[UUID] = out) -> tuple[bool, int, int]:
                return out[id_] > 0, out[id_], project_served[id_]

            chosen = shop.campaigns[UUID(int=shop.release(capacity=1000))]
            best = min(project_rank(shop.campaigns[each].project_id) for each in ready)
            before = out[chosen.project_id]
            assert (before > 0, before, project_served[chosen.project_id]) == best
            if releases[chosen.project_id] % LONGEST_WAIT_EVERY != LONGEST_WAIT_EVERY - 1:
                peers = [shop.campaigns[each] for each in ready if shop.campaigns[each].project_id == chosen.project_id]

                def rank(each: OpenCampaign, chosen: OpenCampaign = chosen) -> tuple[bool, int, int, int]:
                    was = each.out - (each is chosen)
                    return was > 0, -each.priority, was, served[each.id]

                assert rank(chosen) == min(map(rank, peers))
            served[chosen.id] = project_served[chosen.project_id] = number
            releases[chosen.project_id] += 1


def test_the_next_campaigns_are_known_beforehand() -> None:
    """So a round reads them in one statement."""
    shop = Shop(*(of(number % 5, number) for number in range(1, 500)))
    expected = shop.fairness.upcoming(20)
    assert len(expected) < 60
    assert {UUID(int=shop.release()) for _ in range(10)} <= expected


def test_new_batches_and_retries_alternate() -> None:
    shop = Shop(one := campaign(1))
    assert not shop.fairness.wants_fresh(one.id), "what is due goes first"
    shop.fairness.served(one.id, fresh=False)
    assert shop.fairness.wants_fresh(one.id)
    shop.fairness.served(one.id, fresh=True)
    assert not shop.fairness.wants_fresh(one.id)


def test_closed_campaigns_are_forgotten() -> None:
    shop = Shop(one := campaign(1), two := campaign(2))
    shop.fairness.served(one.id, fresh=False)
    shop.fairness.served(two.id, fresh=False)
    shop.fairness.forget(one.id)
    assert not shop.fairness.wants_fresh(one.id)
    assert shop.fairness.wants_fresh(two.id)
    assert shop.fairness.next() == two.id


def test_what_was_not_seen_for_a_lap_and_has_nothing_to_do_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fairness, "MOST_KEPT", 1)
    one, two, three = (campaign(number, project_id=UUID(int=number)) for number in (1, 2, 3))
    shop = Shop(one, two, three)
    for each in (one, two, three):
        shop.fairness.served(each.id, fresh=False)
        shop.fairness.nothing_ready(each.id)
    one.out = three.out = 0
    shop.note(one, ready=False)
    shop.fairness.end_lap()
    shop.note(three, ready=False)
    shop.fairness.end_lap()
    assert not shop.fairness.wants_fresh(one.id), "it was not seen, and has nothing to do"
    assert shop.fairness.wants_fresh(two.id), "it has a batch out"
    assert len(shop.fairness._projects) == 2


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
    assert not campaign(1, **values).may_release


def with_room(
    campaigns: list[OpenCampaign], limits: dict[str, Limit] | None = None, now: float = 0.0
) -> list[OpenCampaign]:
    survey = Survey({one.id: one for one in campaigns}, 2, limits or {}, now)
    return [one for one in campaigns if survey.has_room(one)]


def test_what_is_out_under_a_limit_holds_back_its_campaign_only() -> None:
    limited, other = campaign(1, emails_per_second=5.0, emails_out=26), campaign(2)
    assert with_room([limited, other]) == [other]
    limited.emails_out = 25
    assert with_room([limited, other]) == [limited, other], "five seconds of its rate"
    slow = {f"project:{UUID(int=1)}": limit(f"project:{UUID(int=1)}", 4.0)}
    assert with_room([limited, other], slow) == [other], "the lowest rate counts"


def test_a_cap_that_is_used_up_holds_back_its_campaigns_until_the_next_period() -> None:
    elsewhere = campaign(2, project_id=UUID(int=2))
    full = limit(f"project:{UUID(int=1)}", None, emails_per_hour=10, hour=100, hour_count=10)
    here = campaign(1)
    assert with_room([here, elsewhere], {full.scope: full}, now=100 * 3600.0 + 5) == [elsewhere]
    assert Survey({}, 2, {full.scope: full}, now=101 * 3600.0 - 7).room_in(here) == 7
    assert with_room([here, elsewhere], {full.scope: full}, now=101 * 3600.0) == [here, elsewhere]


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
    assert batch_emails(load(DispatcherSettings), total, total, capacity, rate, pace=0.0) == expected


@pytest.mark.parametrize(
    ("left", "pace", "rate", "expected"),
    [
        (1_000_000, 1e9, None, 2000),
        (900_000, 3000.0, None, 1500),
        (1_000_000, 900.0, None, 500),
        (1_000_000, 1.0, None, 500),
        (1_000_000, 1e9, 10.0, 300),
        (12_000, 1e9, None, 1500),
        (8000, 1e9, None, 2000),
        (8000, 3000.0, None, 2000),
        (8000, 2600.0, None, 1000),
        (12_000, 3500.0, None, 1500),
        (3000, 1e9, None, 750),
        (100, 1e9, None, 500),
        (0, 1e9, None, 500),
    ],
)
def test_batches_of_a_campaign_that_is_sent_fast_are_larger(
    left: int, pace: float, rate: float | None, expected: int
) -> None:
    """As many as a sender is done with in about half a second; what is left at the end is shared by four places."""
    assert batch_emails(load(DispatcherSettings), 1_000_000, left, 4, rate, pace) == expected


def test_a_fast_small_campaign_still_gives_work_to_each_place() -> None:
    assert batch_emails(load(DispatcherSettings), 1000, 1000, 4, None, 1e9) == 250
    assert batch_emails(load(DispatcherSettings), 1000, 250, 4, None, 1e9) == 250


def test_what_is_left_of_a_campaign_is_all_of_it_until_a_batch_is_released() -> None:
    paces, campaign = Paces(), uuid4()
    paces.note(campaign, 5.0)
    assert paces.left(campaign, 1000) == 1000
    paces.released(campaign, 300)
    assert paces.left(campaign, 1000) == 300


class TestAwaitingAPace:
    def test_it_begins_with_the_first_batch_and_ends_with_the_first_that_comes_back(self) -> None:
        paces, campaign = Paces(), uuid4()
        assert not paces.awaits(campaign)
        paces.released(campaign, 300)
        assert paces.awaits(campaign)
        paces.note(campaign, 5.0)
        assert not paces.awaits(campaign)

    def test_it_ends_after_a_second(self, monkeypatch: pytest.MonkeyPatch) -> None:
        paces, campaign = Paces(), uuid4()
        paces.released(campaign, 300)
        later = time.monotonic() + PATIENCE_SECONDS
        monkeypatch.setattr("time.monotonic", lambda: later)
        assert not paces.awaits(campaign)

    def test_it_ends_when_a_sender_asks_for_more(self) -> None:
        paces, campaign, other = Paces(), uuid4(), uuid4()
        paces.note_late(other)
        paces.released(campaign, 300)
        paces.note_late(campaign)
        assert not paces.awaits(campaign)

    def test_nothing_is_awaited_for_a_campaign_that_is_out_altogether(self) -> None:
        paces, campaign = Paces(), uuid4()
        paces.released(campaign, 0)
        assert not paces.awaits(campaign)


def test_the_pace_is_that_of_the_batch_that_ended_last() -> None:
    paces, campaign, other = Paces(), uuid4(), uuid4()
    assert paces.of(campaign) == 0
    for pace in (100.0, 50.0):
        paces.note(campaign, pace)
    paces.note(other, 7.0)
    assert [paces.of(campaign), paces.of(other)] == [50.0, 7.0]
    for _ in range(MOST_KEPT - 1):
        paces.note(uuid4(), 1.0)
    assert [paces.of(campaign), paces.of(other)] == [0.0, 7.0]


async def test_a_deadline_passes_only_after_its_time() -> None:
    long, none = Deadline(60.0), Deadline(0.0)
    assert not long.has_passed()
    assert none.has_passed()
    assert none.cut_short
    assert not long.cut_short
    await none.pause()

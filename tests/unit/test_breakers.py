"""The breakers over a million results: dead addresses, a relay that refuses everyone, usual campaigns."""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from uuid import UUID

import pytest

from services.sender.refusals import BRAKED_EMAILS, RefusalWatch
from services.sender.smtp.contract import Outcome, Verdict
from shared.faults import breakers
from shared.faults.breakers import Seen, alike, domains_needed, list_trips, newest, refusal_of

CAMPAIGN = UUID(int=7)
MILLION = 1_000_000
GROUP = 64
"""Results in a group commit."""

ACCEPTED = Outcome(Verdict.ACCEPTED, "relay", code=250, reply="queued")
GONE = Outcome(Verdict.PERMANENT, "relay", code=550, enhanced="5.1.1", reply="5.1.1 User unknown")
POLICY = Outcome(Verdict.PERMANENT, "relay", code=554, enhanced="5.7.1", reply="5.7.1 Refused by policy")
LATER = Outcome(Verdict.TRANSIENT, "relay", code=451, enhanced="4.7.1", reply="4.7.1 Greylisted")


def trips_at(outcomes: Iterable[tuple[str, Outcome]], list_domains: int) -> int | None:
    """After how many results the relay breaker trips, with sender and ledger together; None if it never does."""
    watch = RefusalWatch()
    recent: list[Seen] = []
    sent_before = False
    for number, (domain, outcome) in enumerate(outcomes, 1):
        watch.note(CAMPAIGN, number, f"person@{domain}", outcome)
        sent_before = sent_before or outcome is ACCEPTED
        if number % (BRAKED_EMAILS if watch.is_suspicious(CAMPAIGN) else GROUP):
            continue
        for noted in watch.take().get(CAMPAIGN, ()):
            recent = newest(recent, [Seen(*one) for one in noted.seen])
            found = alike(recent)
            if found and found.domains >= domains_needed(sent_before=sent_before, list_domains=min(list_domains, 10)):
                return number
    return None


def addresses(seed: int) -> list[str]:
    """The domains of a million recipients: a few providers with most of them, and thousands of small domains."""
    chance = random.Random(seed)
    domains = [f"domain-{chance.getrandbits(40):x}.test" for _ in range(20_000)]
    weights = [1 / rank for rank in range(1, len(domains) + 1)]
    return chance.choices(domains, weights, k=MILLION)


def dead(domains: Sequence[str], share: float, seed: int) -> list[tuple[str, Outcome]]:
    """Anyone may be dead."""
    chance = random.Random(seed)
    return [(domain, GONE if chance.random() < share else ACCEPTED) for domain in domains]


def dead_domains(domains: Sequence[str], share: float, seed: int) -> list[tuple[str, Outcome]]:
    """Whole domains are dead, such as a provider that has closed; all others live."""
    chance = random.Random(seed)
    gone = {domain for domain in sorted(set(domains)) if chance.random() < share}
    return [(domain, GONE if domain in gone else ACCEPTED) for domain in domains]


@pytest.mark.more
@pytest.mark.parametrize("kind", [dead, dead_domains])
@pytest.mark.parametrize("share", [0.03, 0.15, 0.30])
@pytest.mark.parametrize("order", ["shuffled", "sorted"])
def test_a_million_recipients_with_dead_addresses(
    kind: Callable[[Sequence[str], float, int], list[tuple[str, Outcome]]], share: float, order: str
) -> None:
    domains = addresses(seed=1)
    outcomes = kind(sorted(domains) if order == "sorted" else domains, share, 2)
    assert trips_at(outcomes, len(set(domains))) is None, "the relay does what it should"
    if kind is dead:
        assert list(list_trips_at(outcomes)) == ([1000] if share == 0.30 else [])


def list_trips_at(outcomes: Iterable[tuple[str, Outcome]]) -> Iterator[int]:
    """Each time the list breaker trips, looked at after every 500 results; the first resume lifts it."""
    gone = 0
    for number, (_, outcome) in enumerate(outcomes, 1):
        gone += outcome is GONE
        if number % 500 == 0 and list_trips(gone, number, 0.2):
            yield number
            return


@pytest.mark.parametrize("refusal", [GONE, POLICY])
@pytest.mark.parametrize("domains", [1, 2, 5, 10, 1000])
def test_a_relay_that_refuses_everyone_trips_before_a_hundred_recipients_failed(refusal: Outcome, domains: int) -> None:
    everyone = [(f"d{number % domains}.test", refusal) for number in range(1000)]
    at = trips_at(everyone, domains)
    assert at is not None
    assert breakers.WINDOW <= at < 100 - BRAKED_EMAILS


@pytest.mark.parametrize("domains", [1, 3, 10, 1000])
def test_a_relay_that_turns_bad_trips_as_soon(domains: int) -> None:
    good = [(f"d{number % domains}.test", ACCEPTED) for number in range(5000)]
    bad = [(f"d{number % domains}.test", GONE) for number in range(1000)]
    at = trips_at([*good, *bad], domains)
    assert at is not None
    assert at - len(good) < 100


def test_one_dead_domain_never_trips_a_relay() -> None:
    mixed = [(f"d{number}.test", ACCEPTED) for number in range(100)]
    assert trips_at([*mixed, *[("dead.test", GONE)] * 5000], 101) is None


def test_refusals_that_differ_never_trip_a_relay() -> None:
    outcomes = [
        (f"d{number}.test", Outcome(Verdict.PERMANENT, "relay", code=550, reply=f"5.1.1 reason {'abc' * (number % 7)}"))
        for number in range(1000)
    ]
    assert trips_at(outcomes, 1000) is None


def test_every_fifth_email_accepted_means_that_the_relay_works() -> None:
    outcomes = [(f"d{number}.test", ACCEPTED if number % 5 == 0 else GONE) for number in range(1000)]
    assert trips_at(outcomes, 1000) is None


def test_deferred_recipients_count_as_other_results() -> None:
    outcomes = [(f"d{number}.test", LATER if number % 7 == 0 else GONE) for number in range(1000)]
    assert trips_at(outcomes, 1000) is None


def test_the_same_refusal_of_two_recipients_has_one_name() -> None:
    first = refusal_of(550, "5.1.1 <ann@example.com>: Recipient address rejected: User unknown (id 4Qx8k2abc1234567)")
    other = refusal_of(550, "5.1.1 <bob@example.org>: Recipient address rejected: User unknown (id 9Zx7k1abc7654321)")
    assert first == other
    assert first != refusal_of(554, "5.7.1 Relay access denied")


def test_repeating_a_write_adds_nothing() -> None:
    group = [Seen(number, f"d{number}.test", "550-x", 0.0) for number in range(30)]
    once = newest([], group)
    assert newest(once, group) == once
    assert alike(once) is None, "30 recipients are not 50 results"


def test_a_suspicious_relay_is_forgotten_once_it_accepts() -> None:
    watch = RefusalWatch()
    for number in range(10):
        watch.note(CAMPAIGN, number, f"a@d{number}.test", GONE)
    assert watch.is_suspicious(CAMPAIGN)
    assert [len(noted.seen) for noted in watch.take()[CAMPAIGN]] == [10]
    for number in range(10, 20):
        watch.note(CAMPAIGN, number, f"a@d{number}.test", ACCEPTED)
    assert [len(noted.seen) for noted in watch.take()[CAMPAIGN]] == [10], "the ledger learns what followed"
    assert not watch.is_suspicious(CAMPAIGN)
    assert not watch.take()


def test_a_usual_campaign_writes_nothing() -> None:
    watch = RefusalWatch()
    for number in range(1000):
        watch.note(CAMPAIGN, number, "a@d.test", GONE if number % 4 == 0 else ACCEPTED)
        assert not watch.take()

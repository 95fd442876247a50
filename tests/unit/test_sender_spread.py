"""A campaign is at fault when several recipients' servers refuse it in the same words, and not before."""

from uuid import UUID

from services.sender.smtp.contract import Outcome, Verdict
from services.sender.spread import SpreadWatch
from shared.faults.meaning import Consequence
from shared.faults.spread import MOST_KEPT, Refused, newest, widespread

CAMPAIGN, OTHER = UUID(int=1), UUID(int=2)


def refusals(number: int, *, domains: int = 10, refusal: str = "spam") -> list[Refused]:
    return [Refused(index, f"d{index % domains}.test", refusal) for index in range(number)]


def test_five_recipients_in_three_domains() -> None:
    assert widespread(refusals(4, domains=3)) is None
    assert widespread(refusals(5, domains=3)) == "spam"


def test_five_recipients_in_two_domains_are_not_enough() -> None:
    assert widespread(refusals(MOST_KEPT, domains=2)) is None


def test_other_words_count_apart() -> None:
    spam, virus = refusals(8)[:4], refusals(8, refusal="virus")[4:]
    assert widespread([*spam, *virus]) is None
    assert widespread([*spam, *virus, Refused(99, "d9.test", "virus")]) == "virus"


def test_a_recipient_counts_once_and_the_oldest_are_forgotten() -> None:
    assert newest(refusals(3), refusals(3)) == refusals(3)
    assert newest(refusals(MOST_KEPT), [Refused(1000, "d.test", "x")])[0] == refusals(2)[1]


def refused(number: int) -> Outcome:
    reply = f"5.7.1 <person{number}@x.test>: spam, id p{number}si8414989abc"
    return Outcome(Verdict.PERMANENT, "r", code=554, reply=reply, consequence=Consequence.SPREAD)


def test_the_watch_gives_what_it_saw_once_and_by_campaign() -> None:
    watch = SpreadWatch()
    for number in range(4):
        watch.note(OTHER if number == 3 else CAMPAIGN, number, f"person{number}@D{number}.test", refused(number))
    taken = watch.take()
    assert [one.domain for one in taken[CAMPAIGN].seen] == ["d0.test", "d1.test", "d2.test"]
    assert len({one.refusal for one in (*taken[CAMPAIGN].seen, *taken[OTHER].seen)}) == 1, "the same words"
    (reply,) = taken[CAMPAIGN].replies.values()
    assert reply == "r: 554 5.7.1 <person2@x.test>: spam, id p2si8414989abc"
    assert watch.take() == {}


def test_refusals_of_other_kinds_do_not_count() -> None:
    watch = SpreadWatch()
    for consequence in set(Consequence) - {Consequence.SPREAD}:
        outcome = Outcome(Verdict.PERMANENT, "r", code=550, reply="no", consequence=consequence)
        watch.note(CAMPAIGN, 1, "person@d.test", outcome)
    assert watch.take() == {}

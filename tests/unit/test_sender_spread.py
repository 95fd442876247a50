"""A campaign pauses when several recipients' servers refuse its content in the same words, and not before."""

from uuid import UUID

from services.sender.smtp.contract import Outcome, Verdict
from services.sender.spread import FORGOTTEN_AFTER, SpreadRefusals
from shared.faults.meaning import Consequence

CAMPAIGN, OTHER = UUID(int=1), UUID(int=2)
ACCEPTED = Outcome(Verdict.ACCEPTED, "r")


def refused(number: int, why: str = "spam") -> Outcome:
    reply = f"554 5.7.1 <person{number}@x.test>: {why}, id p{number}si8414989abc"
    return Outcome(Verdict.PERMANENT, "r", code=554, reply=reply, consequence=Consequence.SPREAD)


def test_five_recipients_in_three_domains() -> None:
    spread = SpreadRefusals()
    told = [spread.note(CAMPAIGN, f"person{number}@d{number % 3}.test", refused(number)) for number in range(5)]
    assert told == [False, False, False, False, True]


def test_five_recipients_in_two_domains_are_not_enough() -> None:
    spread = SpreadRefusals()
    assert not any(spread.note(CAMPAIGN, f"person{number}@d{number % 2}.test", refused(number)) for number in range(9))


def test_one_recipient_again_and_again_is_not_enough() -> None:
    spread = SpreadRefusals()
    assert not any(spread.note(CAMPAIGN, "person@d.test", refused(number)) for number in range(9))


def test_other_words_and_other_campaigns_count_apart() -> None:
    spread = SpreadRefusals()
    for number in range(8):
        campaign = CAMPAIGN if number % 2 else OTHER
        assert not spread.note(
            campaign, f"p{number}@d{number}.test", refused(number, "spam" if number % 4 > 1 else "virus")
        )


def test_what_lies_many_accepted_emails_back_is_forgotten() -> None:
    spread = SpreadRefusals()
    for number in range(20):
        assert not spread.note(CAMPAIGN, f"person{number}@d{number}.test", refused(number))
        for _ in range(FORGOTTEN_AFTER // 4 + 1):
            spread.note(CAMPAIGN, "person@d.test", ACCEPTED)


def test_after_a_pause_it_counts_from_nothing() -> None:
    spread = SpreadRefusals()
    told = [spread.note(CAMPAIGN, f"person{number}@d{number}.test", refused(number)) for number in range(10)]
    assert [number for number, pause in enumerate(told) if pause] == [4, 9]


def test_refusals_of_other_kinds_do_not_count() -> None:
    spread = SpreadRefusals()
    for consequence in set(Consequence) - {Consequence.SPREAD}:
        outcome = Outcome(Verdict.PERMANENT, "r", code=550, reply="no", consequence=consequence)
        assert not any(spread.note(CAMPAIGN, f"person{number}@d{number}.test", outcome) for number in range(9))

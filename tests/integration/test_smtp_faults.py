"""Whose fault a refusal is, at a real relay: the right one pays, all others go on."""

from dataclasses import replace

import pytest

from services.sender.smtp.contract import Verdict
from shared.faults.meaning import Consequence
from shared.relays.replies import Stage
from tests.integration.test_smtp_failover import LONG_REST, States
from tests.support.smtp.mail import Letter, delivering, letters
from tests.support.smtp.scripted import scripted_relay

POISON = "poison@example.net"
GREYLISTED = "451 4.7.1 <poison@example.org>: Recipient address rejected: Greylisted for 5 minutes (always)"
RATE = "421 4.7.28 Gmail has detected an unusual rate of email originating from your IP address"
ACCOUNT = "550 5.7.1 Daily SMTP relay limit exceeded for customer."


def said(at: str, reply: str, *to: str):  # type: ignore[no-untyped-def]
    """A script that answers so at one step, to these recipients or to all."""
    return lambda verb, line: reply if verb == at and (not to or any(name in line for name in to)) else None


@pytest.mark.parametrize(
    ("at", "reply"),
    [
        ("RCPT", GREYLISTED),
        ("RCPT", "421 4.3.2 closing"),
        ("DATA", "421 4.3.2 closing"),
        (".", "421 4.3.2 closing"),
        (".", "451 4.7.1 Try again later"),
        ("RCPT", "450 4.2.1 mailbox busy"),
    ],
)
async def test_what_is_said_to_one_recipient_alone_is_its_own_matter(at: str, reply: str) -> None:
    """However often it comes back: the relay never rests, nor is it used less."""
    states = States()
    async with (
        scripted_relay(said(at, reply, POISON)) as relay,
        delivering(relay.config(connections=2), letters(10), LONG_REST, states) as (_, box),
    ):
        for number in range(6):
            box.put([Letter(POISON), *letters(2)])
            await box.reported(10 + 3 * (number + 1))
    assert box.verdicts() == {"accepted": 22, "transient": 6}
    assert states.seen == []
    assert {outcome.code for letter, outcome in box.outcomes if letter.rcpt_to == POISON} == {int(reply[:3])}


async def test_twenty_greylisted_recipients_do_not_slow_the_relay() -> None:
    states = States()
    grey = [Letter(f"grey{number}@example.net") for number in range(20)]
    async with (
        scripted_relay(said("RCPT", GREYLISTED, "grey")) as relay,
        delivering(relay.config(connections=2), [*grey, *letters(200)], LONG_REST, states) as (_, box),
    ):
        await box.reported(220)
    assert box.verdicts() == {"accepted": 200, "transient": 20}
    assert states.seen == []


@pytest.mark.parametrize("at", ["MAIL", "RCPT", "."])
async def test_an_account_that_is_refused_rests_the_relay_after_three_recipients(at: str) -> None:
    states = States()
    async with (
        scripted_relay(said(at, ACCOUNT)) as relay,
        delivering(relay.config(connections=1), letters(50), LONG_REST, states) as (engine, box),
    ):
        await states.until(("scripted", "resting"))
        assert "Daily SMTP relay limit exceeded" in (engine.blocked_reason() or "")
        outcomes = [outcome for _, outcome in box.outcomes]
    assert 1 <= len(outcomes) <= 6
    assert {outcome.verdict for outcome in outcomes} <= {Verdict.RELAY_FAULT, Verdict.NOT_STARTED}


async def test_an_account_that_is_refused_leaves_by_the_next_relay() -> None:
    async with scripted_relay(said("RCPT", ACCOUNT)) as first, scripted_relay() as second:
        relays = [first.config("first"), second.config("second")]
        async with delivering(relays, letters(30), LONG_REST) as (_, box):
            await box.reported(30)
    assert box.verdicts() == {"accepted": 30}
    assert len(second.messages) == 30


async def test_words_about_an_account_that_one_recipient_alone_gets_end_as_its_own_matter() -> None:
    states = States()
    async with (
        scripted_relay(said("RCPT", ACCOUNT, POISON)) as relay,
        delivering(relay.config(connections=1), (), LONG_REST, states) as (_, box),
    ):
        for number in range(5):
            box.put([Letter(POISON)])
            await box.reported(number + 1)
    assert box.verdicts() == {"relay_fault": 4, "transient": 1}
    assert states.seen == []


@pytest.mark.parametrize(
    ("at", "reply"),
    [
        ("RCPT", "553 5.7.1 <news@example.com>: Sender address rejected: not owned by user bob"),
        (".", "550 5.7.60 SMTP; Client does not have permissions to send as this sender"),
        ("MAIL", "550 who are you"),
    ],
)
async def test_a_sender_that_is_refused_is_the_campaigns_fault(at: str, reply: str) -> None:
    async with (
        scripted_relay(said(at, reply)) as relay,
        delivering(relay.config(connections=1), letters(1), LONG_REST) as (_, box),
    ):
        (outcome,) = await box.reported(1)
    assert (outcome.verdict, outcome.consequence) == (Verdict.SENDER_REFUSED, Consequence.PAUSE)


async def test_a_rate_that_one_mailbox_receives_too_fast_is_tried_again() -> None:
    reply = "550 5.2.1 The user you are trying to contact is receiving mail at a rate that prevents additional messages"
    async with (
        scripted_relay(said("RCPT", reply, POISON)) as relay,
        delivering(relay.config(), [Letter(POISON)], LONG_REST) as (_, box),
    ):
        (outcome,) = await box.reported(1)
    assert (outcome.verdict, outcome.consequence) == (Verdict.TRANSIENT, Consequence.RETRY)


async def test_a_provider_that_refuses_several_recipients_rests_while_others_go_on() -> None:
    states = States()
    gmail = [Letter(f"person{number}@gmail.com") for number in range(40)]
    others = [Letter(f"other{number}@example.net") for number in range(40)]
    mixed = [letter for pair in zip(gmail, others, strict=True) for letter in pair]
    async with scripted_relay(said("RCPT", RATE, "gmail")) as relay:
        async with delivering(relay.config(connections=1), mixed, LONG_REST, states) as (engine, box):
            await box.reported(80)
            assert engine.status()[0].state == "up"
        asked = sum(verb == "RCPT" for session in relay.sessions for verb in session.verbs) - 40
    assert box.verdicts() == {"accepted": 40, "held": 40}
    assert 3 <= asked <= 8, "the others of that provider were not tried"
    assert states.seen == [("scripted", "provider resting")]
    waiting = [outcome for letter, outcome in box.outcomes if letter in gmail][-1]
    assert 0 < waiting.hold_seconds <= LONG_REST.provider_rest_seconds
    assert "unusual rate" in waiting.reply


async def test_the_emails_of_a_resting_provider_leave_by_another_relay() -> None:
    gmail = [Letter(f"person{number}@gmail.com") for number in range(40)]
    async with scripted_relay(said("RCPT", RATE, "gmail")) as first, scripted_relay() as second:
        relays = [first.config("first", connections=1), second.config("second", connections=1)]
        async with delivering(relays, gmail, LONG_REST) as (_, box):
            await box.reported(40)
    assert box.verdicts() == {"accepted": 40}
    assert len(second.messages) == 40


async def test_a_provider_is_tried_again_after_its_rest() -> None:
    refusing = True
    config = replace(LONG_REST, provider_rest_seconds=0.2)
    async with (
        scripted_relay(lambda verb, _line: RATE if refusing and verb == "RCPT" else None) as relay,
        delivering(relay.config(connections=1), letters(3), config) as (_, box),
    ):
        await box.reported(3)
        held = letters(4)[3]
        box.put([held])
        outcome = (await box.reported(4))[-1]
        assert (outcome.verdict, outcome.hold_seconds > 0) == (Verdict.HELD, True)
        refusing = False
        while outcome.verdict is Verdict.HELD:
            box.put([Letter("person9@example.net")])
            outcome = (await box.reported(len(box.outcomes) + 1))[-1]
    assert outcome.verdict is Verdict.ACCEPTED


async def test_several_providers_that_refuse_in_a_row_mean_the_relay() -> None:
    states = States()
    spread = [Letter(f"person@provider{number}.example") for number in range(20)]
    async with (
        scripted_relay(said("RCPT", "450 4.7.1 rate limited")) as relay,
        delivering(relay.config(connections=1), spread, LONG_REST, states) as (_, box),
    ):
        await states.until(("scripted", "slow"))
    assert set(box.verdicts()) <= {"held", "not_started"}


async def test_a_blocked_address_goes_by_another_relay_from_the_dot_too() -> None:
    reply = "550 5.7.1 Our system has detected that this message is suspicious: very low reputation of the sending IP"
    async with scripted_relay(said(".", reply)) as first, scripted_relay() as second:
        relays = [first.config("first"), second.config("second")]
        async with delivering(relays, letters(5), LONG_REST) as (_, box):
            outcomes = await box.reported(5)
    assert {(outcome.verdict, outcome.relay) for outcome in outcomes} == {(Verdict.ACCEPTED, "second")}
    assert all(letter.permissions_asked == 2 for letter, _ in box.outcomes)


async def test_without_another_relay_what_is_blocked_waits() -> None:
    async with (
        scripted_relay(said("RCPT", "550 5.7.25 no PTR record", POISON)) as relay,
        delivering(relay.config(), [Letter(POISON), *letters(5)], LONG_REST) as (_, box),
    ):
        await box.reported(6)
    assert box.verdicts() == {"accepted": 5, "held": 1}
    (held,) = [outcome for _, outcome in box.outcomes if outcome.verdict is Verdict.HELD]
    assert (held.stage, held.code, held.consequence) == (Stage.RCPT, 550, Consequence.REROUTE)


async def test_what_a_second_connection_says_after_a_421_counts() -> None:
    """The first connection is closed, the second says that there is no such mailbox."""
    replies = iter(["421 4.3.2 closing", "550 5.1.1 no such user"])
    async with (
        scripted_relay(lambda verb, _line: next(replies, None) if verb == "RCPT" else None) as relay,
        delivering(relay.config(connections=1), [Letter(POISON)], LONG_REST) as (_, box),
    ):
        (outcome,) = await box.reported(1)
    assert (outcome.verdict, outcome.consequence) == (Verdict.PERMANENT, Consequence.SUPPRESS)

"""Misbehaving servers: each fault has the right outcome, and only for the email it hit."""

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.sender.smtp.contract import Verdict
from shared.faults.meaning import Consequence
from shared.relays.replies import Stage
from tests.support.smtp.configs import engine_config, relay_config
from tests.support.smtp.mail import Letter, delivering, letters
from tests.support.smtp.scripted import Act, Script, scripted_relay

FAST = engine_config(
    connect_seconds=0.4,
    reply_seconds=0.4,
    email_soft_seconds=0.8,
    email_hard_seconds=0.8,
    rest_seconds=30,
    stall_seconds=0.05,
)
POISON = "person2@example.net"


def to_poison(verb: str, answer: str | Act) -> Script:
    """Answers `verb` with `answer` in the one transaction with POISON as its recipient."""
    return lambda said, line: answer if said == verb and POISON in line else None


@pytest.mark.parametrize("extensions", [("PIPELINING",), ()])
async def test_replies_may_come_byte_by_byte(extensions: tuple[str, ...]) -> None:
    async with scripted_relay(bytewise=True, extensions=extensions) as relay:
        async with delivering(relay.config(connections=2), letters(20)) as (_, box):
            await box.reported(20)
        assert box.verdicts() == {"accepted": 20}
        assert sorted(recipient for recipient, _ in relay.messages) == sorted(
            letter.rcpt_to for letter, _ in box.outcomes
        )


async def test_replies_may_span_lines() -> None:
    def wordy(verb: str, _line: str) -> str | None:
        return {"MAIL": "250-2.1.0\r\n250-fine\r\n250 Ok", ".": "250-2.0.0 Ok\r\n250 queued as LONG42"}.get(verb)

    async with scripted_relay(wordy) as relay, delivering(relay.config(), letters(5)) as (_, box):
        outcomes = await box.reported(5)
    assert {(outcome.verdict, outcome.queue_id) for outcome in outcomes} == {(Verdict.ACCEPTED, "LONG42")}


async def test_a_banner_that_never_comes_rests_the_relay() -> None:
    async with (
        scripted_relay(lambda verb, _line: Act.SILENCE if verb == "CONNECT" else None) as relay,
        delivering(relay.config(), letters(1), FAST) as (engine, box),
    ):
        (outcome,) = await box.reported(1)
        assert (outcome.verdict, outcome.stage) == (Verdict.RELAY_FAULT, Stage.BANNER)
        assert "banner: Timed out" in (engine.blocked_reason() or "")


async def test_a_banner_that_comes_late_is_waited_for() -> None:
    async with scripted_relay(lambda verb, _line: Act.ABSORB if verb == "CONNECT" else None) as relay:
        async with delivering(relay.config(), letters(1)) as (_, box):
            await relay.until(lambda: relay.sessions)
            await relay.say(relay.sessions[0], "220 at last")
            await box.reported(1)
        assert box.verdicts() == {"accepted": 1}


@pytest.mark.parametrize("act", [Act.RESET, Act.CLOSE, Act.SILENCE])
async def test_a_failure_after_the_body_makes_only_that_email_ambiguous(act: Act) -> None:
    async with scripted_relay(to_poison(".", act)) as relay:
        async with delivering(relay.config(connections=2), letters(20), FAST) as (_, box):
            await box.reported(20)
        unclear = [letter.rcpt_to for letter, outcome in box.outcomes if outcome.verdict is Verdict.AMBIGUOUS]
        assert unclear == [POISON]
        assert box.verdicts() == {"accepted": 19, "ambiguous": 1}
        assert len(relay.messages) == 19


@pytest.mark.parametrize("act", [Act.RESET, Act.CLOSE, Act.SILENCE])
@pytest.mark.parametrize("verb", ["RCPT", "DATA"])
async def test_a_failure_before_the_body_makes_no_email_ambiguous(act: Act, verb: str) -> None:
    async with scripted_relay(to_poison(verb, act)) as relay:
        async with delivering(relay.config(connections=2), letters(20), FAST) as (_, box):
            await box.reported(20)
        assert box.verdicts() == {"accepted": 19, "transient": 1}
        hit = next(outcome for letter, outcome in box.outcomes if letter.rcpt_to == POISON)
        assert (hit.verdict, hit.stage) == (Verdict.TRANSIENT, Stage(verb.lower()))
        assert all(recipient != POISON for recipient, _ in relay.bodies)


async def test_421_at_the_dot_of_two_connections_is_the_matter_of_that_email_alone() -> None:
    async with scripted_relay(to_poison(".", "421 4.3.2 shutting down")) as relay:
        async with delivering(relay.config(connections=1), letters(10)) as (_, box):
            await box.reported(10)
        assert box.verdicts() == {"accepted": 9, "transient": 1}


async def test_421_between_emails_costs_no_attempt() -> None:
    count = 0

    def every_third(verb: str, _line: str) -> str | None:
        nonlocal count
        count += verb == "MAIL"
        return "421 4.7.0 enough for one connection" if verb == "MAIL" and count % 4 == 0 else None

    async with scripted_relay(every_third) as relay:
        async with delivering(relay.config(connections=1), letters(30)) as (_, box):
            await box.reported(30)
        assert box.verdicts() == {"accepted": 30}
        assert len(relay.sessions) >= 9


async def test_an_unsolicited_421_closes_the_connection_and_the_next_email_gets_another() -> None:
    async with scripted_relay() as relay, delivering(relay.config(), letters(1)) as (engine, box):
        await box.reported(1)
        await relay.say(relay.sessions[0], "421 4.4.2 idle for too long")
        await relay.until(lambda: "closed" in relay.sessions[0].verbs)
        assert engine.blocked_reason() is None
        box.put(letters(1))
        await box.reported(2)
        assert (box.verdicts(), len(relay.sessions)) == ({"accepted": 2}, 2)


async def test_an_unsolicited_reply_closes_the_connection() -> None:
    async with scripted_relay() as relay, delivering(relay.config(), letters(1)) as (_, box):
        await box.reported(1)
        await relay.say(relay.sessions[0], "250 2.0.0 by the way")
        await relay.until(lambda: "closed" in relay.sessions[0].verbs)
        box.put(letters(1))
        await box.reported(2)
        assert box.verdicts() == {"accepted": 2}


async def test_a_4xx_to_the_third_recipient_defers_that_one_alone() -> None:
    async with scripted_relay(to_poison("RCPT", "451 4.3.0 not this one, not now")) as relay:
        async with delivering(relay.config(connections=1), letters(10)) as (_, box):
            await box.reported(10)
        assert box.verdicts() == {"accepted": 9, "transient": 1}
        assert relay.sessions[0].verbs.count("RSET") == 1
        assert len(relay.bodies) == 9


async def test_data_accepted_without_a_recipient_gets_a_lone_dot() -> None:
    def generous(verb: str, line: str) -> str | None:
        if POISON not in line:
            return None
        return {"RCPT": "550 5.1.1 no such user", "DATA": "354 go ahead"}.get(verb)

    async with scripted_relay(generous) as relay:
        async with delivering(relay.config(connections=1), letters(5)) as (_, box):
            await box.reported(5)
        assert box.verdicts() == {"accepted": 4, "permanent": 1}
        assert [body for recipient, body in relay.bodies if recipient == POISON] == [b""]
        assert len(relay.messages) == 4


@pytest.mark.parametrize(
    "answer",
    ["hello there", "25", "abc def", "250-never\r\n354 agreed", "250 " + "x" * 2**20, "\r\n".join(["250-more"] * 9000)],
)
async def test_garbage_after_the_body_is_ambiguous(answer: str) -> None:
    async with scripted_relay(to_poison(".", answer)) as relay:
        async with delivering(relay.config(connections=1), letters(5), FAST) as (_, box):
            await box.reported(5)
        assert box.verdicts() == {"accepted": 4, "ambiguous": 1}


async def test_a_relay_that_breaks_at_every_dot_is_rested_soon() -> None:
    """Otherwise a broken relay would make a whole batch ambiguous."""
    async with scripted_relay(lambda verb, _line: Act.RESET if verb == "." else None) as relay:
        async with delivering(relay.config(connections=2), letters(100), FAST) as (engine, box):
            await box.reported(5)
            assert "rest" in {status.state[:4] for status in engine.status()}
            assert engine.blocked_reason()
        assert box.verdicts()["ambiguous"] <= 4
        assert box.taken < 20


async def test_the_body_does_not_leave_after_the_relay_hung_up_while_it_was_made() -> None:
    made: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    letter = Letter(content=lambda: made)
    async with scripted_relay() as relay, delivering(relay.config(), [letter], FAST) as (_, box):
        await relay.until(lambda: relay.sessions and "DATA" in relay.sessions[0].verbs)
        relay.sessions[0].writer.transport.abort()
        await relay.until(lambda: len(relay.sessions) == 2)
        letter.content = b"Subject: second\r\n\r\nBody\r\n"
        await box.reported(1)
        assert made.cancelled()
        assert [body for _, body in relay.bodies] == [] or box.verdicts() == {"accepted": 1}


async def test_an_intent_refused_after_354_sends_no_byte() -> None:
    letter = Letter(permission=False)
    async with scripted_relay() as relay, delivering(relay.config(), [letter, *letters(1)]) as (_, box):
        await box.reported(2)
        assert box.verdicts() == {"not_started": 1, "accepted": 1}
        assert [recipient for recipient, _ in relay.bodies] == ["person0@example.net"]


@pytest.mark.parametrize(
    ("letter", "enhanced"),
    [
        (Letter("a@example.net>\r\nRCPT TO:<b@example.net"), "5.1.3"),
        (Letter("a b@example.net"), "5.1.3"),
        (Letter("", mail_from=""), "5.1.3"),
        (Letter("jürgen@example.net"), "5.1.3"),
        (Letter(mail_from="news@example.org> SIZE=1"), "5.1.3"),
    ],
)
async def test_an_address_cannot_smuggle_a_command(letter: Letter, enhanced: str) -> None:
    async with scripted_relay() as relay, delivering(relay.config(), [letter, *letters(1)]) as (_, box):
        await box.reported(2)
    refused = next(outcome for taken, outcome in box.outcomes if taken is letter)
    assert box.verdicts() == {"permanent": 1, "accepted": 1}
    assert (refused.verdict, refused.enhanced) == (Verdict.PERMANENT, enhanced)


async def test_smtputf8_needs_a_relay_that_offers_it() -> None:
    async with (
        scripted_relay(extensions=("PIPELINING",)) as old,
        scripted_relay(extensions=("PIPELINING", "8BITMIME", "SMTPUTF8")) as new,
    ):
        emails = [Letter("jürgen@example.net", smtputf8=True), *letters(3)]
        async with delivering([old.config("old"), new.config("new")], emails) as (_, box):
            await box.reported(4)
        assert box.verdicts() == {"accepted": 4}
        assert [outcome.relay for letter, outcome in box.outcomes if letter.smtputf8] == ["new"]
        async with delivering(old.config("old"), [Letter("jürgen@example.net", smtputf8=True)]) as (_, box):
            (outcome,) = await box.reported(1)
        assert (outcome.verdict, outcome.enhanced) == (Verdict.PERMANENT, "5.6.7")


async def test_a_message_too_big_for_one_relay_goes_to_one_that_takes_it() -> None:
    big = Letter("big@example.net", b"x" * 990 + b"\r\n")
    async with (
        scripted_relay(extensions=("PIPELINING", "SIZE 500")) as small,
        scripted_relay(extensions=("PIPELINING", "SIZE")) as large,
    ):
        async with delivering([small.config("small"), large.config("large")], [big, *letters(3)]) as (_, box):
            await box.reported(4)
        assert box.verdicts() == {"accepted": 4}
        assert [outcome.relay for letter, outcome in box.outcomes if letter is big] == ["large"]
        assert len(small.messages) == 3
        async with delivering(small.config("small"), [Letter("big@example.net", big.content)]) as (_, box):
            (outcome,) = await box.reported(1)
        assert (outcome.verdict, outcome.stage, outcome.enhanced) == (Verdict.PERMANENT, Stage.MAIL, "5.3.4")
        assert "larger than the relay takes (500)" in outcome.reply
        assert outcome.consequence is Consequence.FAIL
        assert len(small.bodies) == 3


SOUP = st.lists(
    st.one_of(
        st.text("0123456789- \r\nabc.", max_size=20),
        st.sampled_from(["250 ok\r\n", "354 go\r\n", "421 bye\r\n", "550 no\r\n", "250-more\r\n"]),
    ),
    max_size=12,
)


@given(soup=st.lists(SOUP, min_size=1, max_size=4), greets=st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_arbitrary_replies_end_in_an_outcome(soup: list[list[str]], greets: bool) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        chunks = soup[served[0] % len(soup)]
        served[0] += 1
        try:
            if greets:
                writer.write(b"220 soup\r\n")
                await reader.readline()
                writer.write(b"250-soup\r\n250 PIPELINING\r\n")
            for chunk in chunks:
                writer.write(chunk.encode())
                await writer.drain()
                await asyncio.sleep(0)
        except ConnectionError:
            pass
        writer.close()

    async def run() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        relay = relay_config(server.sockets[0].getsockname()[1], "soup", connections=2)
        async with server, delivering(relay, letters(3), FAST) as (_, box):
            await box.reported(1)

    served = [0]
    asyncio.run(run())

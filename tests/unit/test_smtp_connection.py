"""One connection, byte by byte, with a fake transport."""

import asyncio

import pytest

from shared.relays.replies import Stage
from tests.support.smtp.configs import engine_config
from tests.support.smtp.mail import Letter, letters
from tests.support.smtp.wire import wired

OK, GO = b"250 2.0.0 Ok\r\n", b"354 go\r\n"
ENVELOPE_0 = b"MAIL FROM:<news@example.org>\r\nRCPT TO:<person0@example.net>\r\nDATA\r\n"
ENVELOPE_1 = ENVELOPE_0.replace(b"person0", b"person1")
FIRST, SECOND = "person0@example.net", "person1@example.net"


async def test_one_write_carries_a_body_and_the_next_envelope() -> None:
    connection, transport, owner = wired(letters(3, content=b"Hi\r\n"))
    assert transport.read() == ENVELOPE_0
    connection.data_received(OK + OK + GO)
    assert transport.read() == b"Hi\r\n.\r\n" + ENVELOPE_1
    connection.data_received(OK + OK + OK + GO)
    assert transport.read() == b"Hi\r\n.\r\n" + ENVELOPE_0.replace(b"person0", b"person2")
    assert owner.told[FIRST][0] == "accepted"


async def test_without_pipelining_every_command_waits() -> None:
    connection, transport, owner = wired(letters(2, content=b"Hi\r\n"), pipelining=False)
    for expected, answer in (
        (b"MAIL FROM:<news@example.org>\r\n", OK),
        (b"RCPT TO:<person0@example.net>\r\n", OK),
        (b"DATA\r\n", GO),
        (b"Hi\r\n.\r\n", OK),
        (b"MAIL FROM:<news@example.org>\r\n", b""),
    ):
        assert transport.read() == expected
        connection.data_received(answer)
    assert owner.told[FIRST][0] == "accepted"


async def test_smtputf8_is_asked_for_where_it_is_needed() -> None:
    _, transport, _ = wired([Letter("jürgen@example.net", smtputf8=True)])
    assert "MAIL FROM:<news@example.org> BODY=8BITMIME SMTPUTF8\r\nRCPT TO:<jürgen@".encode() in transport.read()


@pytest.mark.parametrize("pipelining", [True, False])
async def test_mail_carries_the_size_if_the_relay_names_a_limit(pipelining: bool) -> None:
    _, transport, _ = wired(letters(1, content=b"12345678\r\n"), pipelining=pipelining, size_limit=10)
    assert transport.read().startswith(b"MAIL FROM:<news@example.org> SIZE=10\r\n")


async def test_a_message_above_the_size_limit_is_not_begun() -> None:
    emails = letters(3, content=b"12345678\r\n")
    emails[0].content = emails[1].content = b"123456789\r\n"
    _, transport, owner = wired(emails, size_limit=10)
    assert {who: what for who, (what, _, _) in owner.told.items()} == {FIRST: "too_big", SECOND: "too_big"}
    assert transport.read().split(b"\r\n")[:2] == [
        b"MAIL FROM:<news@example.org> SIZE=10",
        b"RCPT TO:<person2@example.net>",
    ]


async def test_a_message_that_turns_out_too_big_does_not_leave() -> None:
    made: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    letter = Letter(content=lambda: made)
    connection, transport, owner = wired([letter], size_limit=10)
    assert transport.read().startswith(b"MAIL FROM:<news@example.org>\r\n")
    connection.data_received(OK + OK + GO)
    made.set_result(b"123456789\r\n")
    await asyncio.sleep(0)
    assert (transport.read(), transport.aborted) == (b"", True)
    assert (owner.told[letter.rcpt_to][0], letter.permissions_asked) == ("too_big", 0)


async def test_with_a_size_limit_an_email_that_cannot_be_made_does_not_delay_the_next() -> None:
    def fail() -> bytes:
        raise KeyError("name")

    emails = letters(2)
    emails[0].content = fail
    _, transport, owner = wired(emails, size_limit=1000)
    assert (owner.told[FIRST][0], b"person1" in transport.read()) == ("unmade", True)


@pytest.mark.parametrize("pipelining", [True, False])
async def test_a_refused_recipient_costs_one_reset(pipelining: bool) -> None:
    connection, transport, owner = wired(letters(2), pipelining=pipelining)
    connection.data_received(OK)
    connection.data_received(b"550 5.1.1 no such user\r\n")
    if pipelining:
        connection.data_received(b"503 5.5.1 no recipients\r\n")
    assert owner.told[FIRST][:2] == ("refused", Stage.RCPT)
    sent = transport.read()
    assert sent.count(b"RSET\r\n") == 1
    assert sent.endswith(b"RSET\r\n" + (ENVELOPE_1 if pipelining else b""))
    connection.data_received(OK)
    connection.data_received(OK + OK + GO if pipelining else OK)
    assert b"RSET" not in transport.read()


async def test_a_refused_recipient_and_a_354_get_a_lone_dot() -> None:
    connection, transport, owner = wired(letters(2))
    transport.read()
    connection.data_received(OK + b"450 4.3.0 not now\r\n" + GO)
    assert transport.read() == b".\r\n"
    assert owner.told[FIRST][:2] == ("refused", Stage.RCPT)
    connection.data_received(b"554 5.5.1 no valid recipients\r\n")
    assert transport.read() == b"RSET\r\n" + ENVELOPE_1


async def test_a_recipient_accepted_for_a_refused_sender_ends_the_connection() -> None:
    connection, transport, owner = wired(letters(1))
    connection.data_received(b"550 5.1.8 bad sender\r\n" + OK)
    assert transport.aborted
    assert owner.told[FIRST][:2] == ("refused", Stage.MAIL)


async def test_a_lost_connection_makes_only_the_email_whose_body_was_out_ambiguous() -> None:
    connection, _, owner = wired(letters(3))
    connection.data_received(OK + OK + GO)
    connection.connection_lost(ConnectionResetError("reset by peer"))
    assert {recipient: what for recipient, (what, _, _) in owner.told.items()} == {
        FIRST: "ambiguous",
        SECOND: "displaced",
    }


async def test_a_connection_lost_at_the_envelope_makes_no_email_ambiguous() -> None:
    connection, _, owner = wired(letters(3))
    connection.data_received(OK)
    connection.eof_received()
    assert owner.told[FIRST][:2] == ("interrupted", Stage.RCPT)
    assert owner.given == [FIRST]


async def test_a_body_that_did_not_leave_whole_was_not_delivered() -> None:
    connection, transport, owner = wired(letters(1, content=b"x" * 100_000 + b"\r\n"))
    connection.data_received(OK + OK + GO)
    transport.unsent = 50_000
    connection.abort("enough")
    assert owner.told[FIRST][:2] == ("interrupted", Stage.BODY)


async def test_an_acceptance_before_the_dot_has_left_is_not_trusted() -> None:
    connection, transport, owner = wired(letters(1, content=b"x" * 100_000 + b"\r\n"))
    connection.data_received(OK + OK + GO)
    transport.unsent = 50_000
    connection.data_received(OK)
    assert transport.aborted
    assert owner.told[FIRST][0] == "interrupted"


@pytest.mark.parametrize(
    ("replies", "told"),
    [
        (b"421 4.3.2 bye\r\n", {FIRST: ("refused", Stage.MAIL)}),
        (OK + b"421 4.3.2 bye\r\n", {FIRST: ("refused", Stage.RCPT)}),
        (OK + OK + b"421 4.3.2 bye\r\n", {FIRST: ("refused", Stage.DATA)}),
    ],
)
async def test_421_refuses_the_email_whose_step_it_answers(replies: bytes, told: dict[str, tuple[str, Stage]]) -> None:
    connection, transport, owner = wired(letters(1))
    connection.data_received(replies)
    assert {recipient: entry[:2] for recipient, entry in owner.told.items()} == told
    assert transport.aborted


async def test_421_at_the_dot_does_not_refuse_the_next_email() -> None:
    connection, transport, owner = wired(letters(2))
    connection.data_received(OK + OK + GO)
    connection.data_received(b"421 4.3.2 bye\r\n")
    assert owner.told[FIRST][:2] == ("refused", Stage.DOT)
    assert owner.told[SECOND][0] == "displaced"
    assert transport.aborted


async def test_421_between_emails_does_not_refuse_the_next_email() -> None:
    connection, _, owner = wired(letters(2))
    connection.data_received(OK + OK + GO)
    connection.data_received(OK + b"421 4.4.2 enough on one connection\r\n")
    assert owner.told[FIRST][0] == "accepted"
    assert owner.told[SECOND][0] == "displaced"


async def test_421_while_idle_closes_the_connection() -> None:
    connection, transport, owner = wired([])
    connection.data_received(b"421 4.4.2 timeout\r\n")
    assert (transport.aborted, owner.is_closed, owner.told) == (True, True, {})


@pytest.mark.parametrize(
    ("replies", "what"),
    [
        (b"354 go\r\n", "interrupted"),  # at MAIL
        (OK + b"354 go\r\n", "interrupted"),  # at RCPT
        (OK + OK + OK, "interrupted"),  # at DATA
        (OK + OK + b"334 go\r\n", "interrupted"),
        (OK + OK + GO + OK, "interrupted"),  # one too many, before the body was written
        (b"hello\r\n", "interrupted"),
    ],
)
async def test_replies_out_of_step_end_the_connection(replies: bytes, what: str) -> None:
    connection, transport, owner = wired(letters(1))
    transport.read()
    connection.data_received(replies)
    assert transport.aborted
    assert transport.read() == b""
    assert owner.told[FIRST][0] == what


async def test_a_354_after_the_body_does_not_accept_it() -> None:
    connection, transport, owner = wired(letters(1))
    connection.data_received(OK + OK + GO)
    connection.data_received(GO)
    assert (transport.aborted, owner.told[FIRST][0]) == (True, "ambiguous")


async def test_half_an_unsolicited_reply_holds_the_next_email_back() -> None:
    connection, transport, owner = wired([])
    connection.data_received(b"42")
    owner.pending += letters(1)
    connection.offer()
    assert (transport.read(), owner.given) == (b"", [])
    connection.data_received(b"1 4.4.2 idle for too long\r\n")
    assert transport.aborted


async def test_nothing_is_written_for_an_email_that_is_withdrawn() -> None:
    letter = Letter(permission=False)
    connection, transport, owner = wired([letter])
    transport.read()
    connection.data_received(OK + OK + GO)
    assert (transport.read(), transport.aborted) == (b"", True)
    assert owner.told[letter.rcpt_to][0] == "withdrawn"


async def test_permission_is_asked_once_and_only_after_354() -> None:
    letter = Letter()
    connection, _, _ = wired([letter])
    connection.data_received(OK + OK)
    assert letter.permissions_asked == 0
    connection.data_received(GO)
    assert letter.permissions_asked == 1


async def test_a_body_and_a_permission_may_take_a_while() -> None:
    loop = asyncio.get_running_loop()
    made: asyncio.Future[bytes] = loop.create_future()
    permitted: asyncio.Future[bool] = loop.create_future()
    answers: list[bool | asyncio.Future[bool]] = [True, permitted]
    letter = Letter(content=lambda: made, permission=answers.pop)
    connection, transport, _ = wired([letter])
    transport.read()
    connection.data_received(OK + OK + GO)
    assert letter.permissions_asked == 0
    made.set_result(b"Hi\r\n")
    await asyncio.sleep(0)
    assert (transport.read(), letter.permissions_asked) == (b"", 1)
    permitted.set_result(True)
    await asyncio.sleep(0)
    assert letter.permissions_asked == 2, "after an awaited yes it is asked again"
    assert transport.read() == b"Hi\r\n.\r\n"


async def test_the_body_of_a_timed_email_is_written_before_anything_else() -> None:
    timed, other = letters(2, content=b"Hi\r\n")
    timed.is_timed = True
    connection, transport, _ = wired([timed, other])
    connection.data_received(OK + OK + GO)
    assert transport.writes == [ENVELOPE_0, b"Hi\r\n.\r\n", ENVELOPE_1]


async def test_a_permission_refused_after_a_while_ends_the_connection() -> None:
    permitted: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    letter = Letter(permission=lambda: permitted)
    connection, transport, owner = wired([letter])
    transport.read()
    connection.data_received(OK + OK + GO)
    permitted.set_result(False)
    await asyncio.sleep(0)
    assert (transport.read(), transport.aborted) == (b"", True)
    assert owner.told[letter.rcpt_to][0] == "withdrawn"


async def test_a_connection_that_ends_stops_waiting_for_the_body() -> None:
    made: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    letter = Letter(content=lambda: made)
    connection, _, owner = wired([letter])
    connection.data_received(OK + OK + GO)
    connection.connection_lost(None)
    assert made.cancelled()
    await asyncio.sleep(0)
    assert owner.told[letter.rcpt_to][0] == "interrupted"


@pytest.mark.parametrize("late", [False, True])
async def test_an_email_that_cannot_be_made_is_reported(late: bool) -> None:
    def fail() -> bytes:
        raise KeyError("name")

    async def fail_later() -> bytes:
        return fail()

    letter = Letter(content=fail_later if late else fail)
    connection, transport, owner = wired([letter])
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert owner.told[letter.rcpt_to][0] == "unmade"
    connection.data_received(OK + OK + GO)
    assert transport.aborted


async def test_no_body_leaves_if_asking_for_permission_fails() -> None:
    def fail() -> bool:
        raise RuntimeError("ledger is gone")

    letter = Letter(permission=fail)
    connection, transport, owner = wired([letter])
    transport.read()
    connection.data_received(OK + OK + GO)
    assert (transport.read(), transport.aborted) == (b"", True)
    assert owner.told[letter.rcpt_to][0] == "unmade"


async def test_after_the_most_emails_per_connection_comes_quit() -> None:
    connection, transport, owner = wired(letters(3), most_emails=2)
    connection.data_received(OK + OK + GO)
    connection.data_received(OK + OK + OK + GO)
    transport.read()
    connection.data_received(OK)
    assert transport.read() == b"QUIT\r\n"
    connection.data_received(b"221 bye\r\n")
    assert transport.aborted
    assert owner.given == [FIRST, SECOND]


async def test_a_retired_connection_finishes_what_it_has() -> None:
    connection, transport, owner = wired(letters(3), most_emails=1000)
    connection.data_received(OK + OK + GO)
    connection.retire()
    connection.data_received(OK + OK + OK + GO)
    connection.data_received(OK)
    assert transport.read().endswith(b".\r\nQUIT\r\n")
    assert owner.given == [FIRST, SECOND]
    assert {what for what, _, _ in owner.told.values()} == {"accepted"}


async def test_a_hanging_email_does_not_keep_the_one_behind_it() -> None:
    connection, transport, owner = wired(letters(3))
    connection.data_received(OK + OK + GO)
    connection.check(connection.quiet_since + 0.2, stall_seconds=0.25)
    assert (connection.stalled, owner.told) == (False, {})
    connection.check(connection.quiet_since + 0.3, stall_seconds=0.25)
    assert (connection.stalled, list(owner.told)) == (True, [SECOND])
    assert owner.told[SECOND][0] == "displaced"
    # If the relay wakes up after all, the first is accepted, and no empty email goes out for the second.
    transport.read()
    connection.data_received(OK + OK + OK + GO)
    assert owner.told[FIRST][0] == "accepted"
    assert (transport.read(), transport.aborted) == (b"", True)


async def test_after_a_short_stall_the_email_behind_stays_on_its_connection() -> None:
    connection, transport, owner = wired(letters(3, content=b"Hi\r\n"))
    connection.data_received(OK + OK + GO)
    connection.check(connection.quiet_since + 0.3, stall_seconds=0.25)
    owner.gives_back = True
    transport.read()
    connection.data_received(OK + OK + OK + GO)
    assert (connection.stalled, transport.aborted) == (False, False)
    assert transport.read().startswith(b"Hi\r\n.\r\nMAIL")
    connection.data_received(OK)
    assert {recipient: what for recipient, (what, _, _) in owner.told.items()} == {
        FIRST: "accepted",
        SECOND: "accepted",
    }


@pytest.mark.parametrize(
    ("replies", "after", "told"),
    [
        (b"", 121, ("interrupted", Stage.MAIL)),
        (OK, 121, ("interrupted", Stage.RCPT)),
        (OK + OK, 121, ("interrupted", Stage.DATA)),
        (OK + OK + GO, 299, None),
        (OK + OK + GO, 301, ("ambiguous", Stage.DOT)),
    ],
)
async def test_every_phase_has_its_limit(replies: bytes, after: float, told: tuple[str, Stage] | None) -> None:
    connection, transport, owner = wired(letters(1))
    if replies:
        connection.data_received(replies)
    connection.check(connection.quiet_since + after, stall_seconds=1000)
    assert transport.aborted == (told is not None)
    assert (owner.told[FIRST][:2] if owner.told else None) == told


async def test_too_late_to_begin_the_body() -> None:
    connection, transport, owner = wired(letters(1), config=engine_config(email_soft_seconds=1e-9))
    transport.read()
    await asyncio.sleep(0.001)
    connection.data_received(OK + OK + GO)
    assert (transport.read(), transport.aborted) == (b"", True)
    assert owner.told[FIRST][0] == "interrupted"


async def test_a_refused_rset_ends_the_connection() -> None:
    connection, transport, _ = wired(letters(2))
    connection.data_received(OK + b"550 5.1.1 no\r\n" + b"503 5.5.1 no recipients\r\n")
    connection.data_received(b"500 what?\r\n")
    assert transport.aborted


async def test_giving_up_an_email_whose_body_is_out_costs_the_connection_and_not_the_email_behind_it() -> None:
    emails = letters(3)
    connection, transport, owner = wired(emails)
    connection.data_received(OK + OK + GO)
    connection.give_up([emails[2]], "too long")
    assert not transport.aborted
    connection.give_up([emails[0]], "too long")
    assert transport.aborted
    assert {who: told[0] for who, told in owner.told.items()} == {FIRST: "ambiguous", SECOND: "displaced"}


async def test_giving_up_the_email_behind_does_not_affect_the_one_before_it() -> None:
    emails = letters(2)
    connection, transport, owner = wired(emails)
    connection.data_received(OK + OK + GO)
    connection.give_up([emails[1]], "too long")
    assert not transport.aborted
    assert owner.told[SECOND][0] == "withdrawn"
    connection.data_received(OK)
    assert owner.told[FIRST][0] == "accepted"
    connection.data_received(OK + OK + GO)
    assert transport.aborted
    assert b"person1" not in transport.read().partition(b"DATA\r\n")[2].partition(b"DATA\r\n")[2]


@pytest.mark.parametrize("answered", [b"", OK, OK + OK + GO])
async def test_an_email_that_is_given_up_before_its_body_is_withdrawn(answered: bytes) -> None:
    body: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    emails = [Letter(FIRST, lambda: body)]
    connection, transport, owner = wired(emails)
    connection.data_received(answered)
    connection.give_up(emails, "too long")
    assert (transport.aborted, body.cancelled()) == (True, True)
    assert owner.told[FIRST][0] == "withdrawn"

"""Bytes become replies, wherever they are cut."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.sender.smtp.replies import MAX_LINE_BYTES, MAX_REPLY_BYTES, BadReplyError, ReplyReader
from shared.relays.replies import Reply, queue_id_in

CODES = st.integers(200, 599)
TEXTS = st.binary(max_size=60).map(lambda text: text.replace(b"\n", b"").replace(b"\r", b""))


def test_a_reply_per_line() -> None:
    assert ReplyReader().feed(b"250 2.1.0 Ok\r\n354 go\r\n") == [Reply(250, b"2.1.0 Ok"), Reply(354, b"go")]


@pytest.mark.parametrize("line", [b"250\r\n", b"250 \r\n", b"250\n"])
def test_a_reply_may_have_no_text(line: bytes) -> None:
    assert ReplyReader().feed(line) == [Reply(250, b"")]


def test_lines_of_one_reply_are_joined() -> None:
    assert ReplyReader().feed(b"550-5.1.1 no\r\n550-such\r\n550 user\r\n") == [Reply(550, b"5.1.1 no\nsuch\nuser")]


@pytest.mark.parametrize(
    "line",
    [
        b"hello\r\n",
        b"\r\n",
        b"25\r\n",
        b"2500 Ok\r\n",
        b"250+Ok\r\n",
        b"150 x\r\n",
        b"600 x\r\n",
        b"099 x\r\n",
        b"-50 x\r\n",
    ],
)
def test_what_is_not_a_reply_is_refused(line: bytes) -> None:
    with pytest.raises(BadReplyError):
        ReplyReader().feed(line)


def test_codes_within_a_reply_must_agree() -> None:
    with pytest.raises(BadReplyError, match="250 and 550"):
        ReplyReader().feed(b"250-a\r\n550 b\r\n")


def test_a_line_without_end_is_refused() -> None:
    with pytest.raises(BadReplyError, match="line without end"):
        ReplyReader().feed(b"250 " + b"x" * MAX_LINE_BYTES)


def test_a_reply_without_end_is_refused() -> None:
    reader = ReplyReader()
    line = b"250-" + b"x" * 1000 + b"\r\n"
    assert reader.feed(line * (MAX_REPLY_BYTES // len(line))) == []
    with pytest.raises(BadReplyError, match="reply without end"):
        reader.feed(line)


@settings(deadline=None)
@given(st.lists(st.tuples(CODES, st.lists(TEXTS, min_size=1, max_size=4)), max_size=8), st.lists(st.integers(1, 40)))
def test_it_does_not_matter_where_the_stream_is_cut(replies: list[tuple[int, list[bytes]]], cuts: list[int]) -> None:
    stream = b"".join(
        b"".join(b"%d-%b\r\n" % (code, text) for text in texts[:-1]) + b"%d %b\r\n" % (code, texts[-1])
        for code, texts in replies
    )
    reader, read, rest = ReplyReader(), [], stream
    for size in cuts:
        read += reader.feed(rest[:size])
        rest = rest[size:]
    read += reader.feed(rest)
    assert read == [Reply(code, b"\n".join(texts)) for code, texts in replies]
    assert not reader.mid_reply


def test_a_line_means_the_same_whether_or_not_it_was_seen_before() -> None:
    reader = ReplyReader()
    last, whole = b"250 Ok\r\n", b"250-more\r\n250 Ok\r\n"
    assert reader.feed(whole + last + whole + last) == [Reply(250, b"more\nOk"), Reply(250, b"Ok")] * 2


@settings(deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=20))
def test_any_bytes_give_replies_or_an_error(chunks: list[bytes]) -> None:
    reader = ReplyReader()
    try:
        replies = [reply for chunk in chunks for reply in reader.feed(chunk)]
    except BadReplyError:
        return
    for reply in replies:
        assert 200 <= reply.code < 600
        assert reply.text.isprintable()
        assert len(reply.text) <= 500


@pytest.mark.parametrize(
    ("text", "enhanced"),
    [
        (b"5.1.1 no such user", "5.1.1"),
        (b"5.7.1", "5.7.1"),
        (b"5.1.10 recipient not found", "5.1.10"),
        (b"4.7.1 of another class than the code", None),
        (b"no such user", None),
        (b"5.1.1: no such user", None),
        (b"192.0.2.1 is listed", None),
    ],
)
def test_the_enhanced_code_comes_first_and_has_the_class_of_the_code(text: bytes, enhanced: str | None) -> None:
    assert Reply(550, text).enhanced == enhanced


@pytest.mark.parametrize(
    ("server", "text", "queue_id"),
    [
        ("Postfix", b"2.0.0 Ok: queued as 4XyZ1q2w3eR", "4XyZ1q2w3eR"),
        (
            "Postfix, long ids, filter",
            b"2.0.0 from MTA(smtp:[127.0.0.1]:10025): 250 2.0.0 Ok: queued as 5B3D01",
            "5B3D01",
        ),
        ("Exim", b"OK id=1tEsT0-000abc-2D", "1tEsT0-000abc-2D"),
        ("Sendmail", b"2.0.0 4AMBcdef012345 Message accepted for delivery", "4AMBcdef012345"),
        ("OpenSMTPD", b"2.0.0 8a1b2c3d Message accepted for delivery", "8a1b2c3d"),
        ("Google", b"2.0.0 OK  1732200000 d2e1a72fcca58-7248d1.12 - gsmtp", "d2e1a72fcca58-7248d1.12"),
        ("Amazon SES", b"Ok 0102018f1e2d3c4b-5a697887-0000-000000", "0102018f1e2d3c4b-5a697887-0000-000000"),
        (
            "Exchange",
            b"2.6.0 <a@b.example> [InternalId=123456, Hostname=X.example] 9876 bytes Queued mail for delivery",
            "123456",
        ),
        ("SendGrid", b"Ok: queued as aBcDeFgHiJkL_mNoP", "aBcDeFgHiJkL_mNoP"),
        ("Haraka", b"Message Queued (0A1B2C3D-4E5F.1)", "0A1B2C3D-4E5F.1"),
        ("KumoMTA", b"OK ids=0123456789abcdef0123456789abcdef", "0123456789abcdef0123456789abcdef"),
        ("smtp-sink", b"2.0.0 Ok", None),
        ("terse", b"accepted", None),
    ],
)
def test_the_relays_queue_id(server: str, text: bytes, queue_id: str | None) -> None:
    assert queue_id_in(Reply(250, text).text) == queue_id, server


def test_text_is_one_printable_line() -> None:
    assert Reply(550, b"a\nb\x00\x1b[31m\xff caf\xc3\xa9").text == "a b [31m\ufffd café"

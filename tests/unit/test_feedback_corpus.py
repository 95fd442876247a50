"""Reports of many mail systems mean what they say; bytes of any kind mean nothing, and raise nothing."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.feedback.about import about
from shared.feedback.meaning import Kind
from shared.feedback.mime import MOST_BYTES
from shared.feedback.read import digest, read
from tests.support.feedback_corpus import ANN, LINK, RCPT, TOKEN, Case, arf, cases, dsn, group
from tests.support.feedback_corpus_more import more_cases

CASES = [*cases(), *more_cases()]
SECONDS = 20.0
"""Far more than any mail takes, also on a machine that is busy."""


def test_there_are_enough() -> None:
    assert len(CASES) >= 200
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_means(case: Case) -> None:
    found = read(case.octets, case.rcpt, case.sender)
    assert found.kind is case.kind
    judgement = found.judgement()
    assert (judgement is not None) == (case.kind in (Kind.BOUNCED, Kind.DELAYED))
    if case.consequence:
        assert judgement is not None
        assert judgement.consequence.value == case.consequence, found
    assert bool({TOKEN, LINK} & set(found.tokens)) == case.has_token
    assert len(found.text) <= 500
    assert found.text.isprintable()


@pytest.mark.parametrize("case", [case for case in CASES if case.has_token], ids=lambda case: case.name)
def test_without_an_envelope_the_token_is_found_in_the_mail(case: Case) -> None:
    assert {TOKEN, LINK} & set(read(case.octets).tokens)


def test_the_envelope_comes_first() -> None:
    other = "a" * 32
    octets = dsn("MAILER-DAEMON@mx", "x", "y", group("failed", "5.1.1"))
    assert read(octets, f"bounce+{other}@bounces.example.com").tokens[0] == other
    assert read(octets, "postmaster@bounces.example.com").tokens[0] == TOKEN


@pytest.mark.parametrize(
    "written",
    [
        f"SRS0=x=y=bounces.example.com=bounce+{TOKEN}@forwarder.example.org",
        f"prvs=123=bounce+{TOKEN.upper()}@bounces.example.com",
        f"mailto:unsubscribe%2B{TOKEN}@bounces.example.com",
        f"https://safe.example.org/?url=https%3A%2F%2Fmail.example.com%2Fu%2F{LINK}&data=1",
        f"<{TOKEN}@example.com>",
    ],
)
def test_tokens_are_found_as_others_write_them(written: str) -> None:
    assert {TOKEN, LINK} & set(read(f"Subject: x\n\nabout {written} ok".encode()).tokens)


def test_the_same_mail_by_another_way_has_the_same_digest() -> None:
    octets = dsn("MAILER-DAEMON@mx", "x", "y", group("failed", "5.1.1"))
    again = b"Received: from elsewhere by here; now\r\n" + octets.replace(b"\n", b"\r\n")
    assert digest(octets, RCPT) == digest(again, RCPT.upper())
    assert digest(octets, RCPT) != digest(octets, "postmaster@bounces.example.com")
    assert digest(octets, RCPT) != digest(octets + b"x", RCPT)


def test_a_complaint_names_its_recipient() -> None:
    assert read(arf("abuse", more=f"Original-Rcpt-To: <{ANN}>\n")).addresses == (ANN,)


soup = st.binary(max_size=3000)
pieces = st.lists(
    st.sampled_from(
        [
            b"Content-Type: multipart/report; boundary=b\n",
            b"Content-Type: message/delivery-status\n",
            b"--b\n",
            b"--b--\n",
            b"\n",
            b"\r\n",
            b"\r",
            b"\0",
            b"Final-Recipient: rfc822; x@y\n",
            b"Action: failed\n",
            b"Status: 5.1.1\n",
            b"Status: 9.9\n",
            b"Content-Transfer-Encoding: base64\n",
            b"Content-Type: message/rfc822\n",
            b"=?utf-8?b?////?=",
            b"<" * 50,
            b"550 5.1.1 ",
            b"Subject: Undeliverable\n",
            b"From: MAILER-DAEMON@x\n",
            b"Content-Type: text/html; charset=utf-7\n",
            b"\xff\xfe" * 20,
            b"Content-Type: message/feedback-report\n",
            b"Feedback-Type: abuse\n",
            b" folded\n",
            b":\n",
            b"--" * 40,
            b"a@b ",
        ]
    )
    | soup,
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(soup | pieces.map(b"".join), st.text(max_size=60), st.none() | st.just("") | st.text(max_size=20))
def test_any_bytes_are_read(octets: bytes, rcpt: str, sender: str | None) -> None:
    found = read(octets, rcpt, sender)
    assert not {TOKEN, LINK} & set(found.tokens)
    assert len(digest(octets, rcpt)) == 64
    found.judgement()


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(CASES), st.integers(0, 4000), st.integers(0, 400), st.binary(max_size=20))
def test_a_damaged_report_is_read(case: Case, at: int, length: int, other: bytes) -> None:
    found = read(case.octets[:at] + other + case.octets[at + length :], case.rcpt, case.sender)
    found.judgement()
    assert len(found.tokens) <= 20


@pytest.mark.parametrize(
    "octets",
    [
        b"Content-Type: multipart/mixed; boundary=a\n\n"
        + b"--a\nContent-Type: multipart/mixed; boundary=a\n\n" * 20_000,
        b"Content-Type: message/rfc822\n\n" * 30_000,
        b"From: postmaster@x\n\n" + b"<" * MOST_BYTES,
        b"From: postmaster@x\nContent-Type: text/html\n\n" + b"<!--" * 250_000,
        b"From: postmaster@x\nContent-Type: text/html\n\n" + b'<a href="' * 100_000,
        b"From: postmaster@x\n\n" + b"a@" * 400_000,
        b"Subject: " + b"=?utf-8?q?" * 100_000,
        b"From: postmaster@x\n\n" + b"--" * 20_000 + b"\n-- " * 100_000,
        b"From: postmaster@x\n\n" + b"550 5.1.1 " * 90_000,
        b"Content-Type: message/delivery-status\n\n" + b"Final-Recipient: rfc822; x@y\nAction: failed\n" * 20_000,
        b"X: y\n" * 200_000,
        b"Content-Type: multipart/report; boundary=b\n\n" + b"--b\n" * 200_000,
        b"Content-Type: text/plain; charset=punycode\n\n" + b"a-" * 400_000,
        b"From: x" + b"\n " * 400_000,
    ],
    ids=range(14),
)
def test_made_up_mails_do_not_take_long(octets: bytes) -> None:
    before = time.process_time()
    read(octets, RCPT, "")
    digest(octets, RCPT)
    assert time.process_time() - before < SECONDS


@pytest.mark.parametrize("sign", ["\u017f", "\u212a"], ids=["the long s", "the Kelvin sign"])
def test_what_only_looks_like_a_token_is_none(sign: str) -> None:
    """They are an `s` and a `k` to a regular expression that ignores case."""
    written = f"To: bounce+{sign * 32}@b.example.com\n\n<{sign * 32}@example.com> unsubscribe+{sign * 32}@b.example.com"
    assert read(written.encode()).tokens == ()
    assert read(written.encode(), f"unsubscribe+{sign * 32}@b.example.com").kind is Kind.UNKNOWN


def a_status(*groups: str) -> bytes:
    return dsn("MAILER-DAEMON@mx.example.net", "Undelivered", "x", *groups)


@pytest.mark.parametrize("ours_first", [True, False])
@pytest.mark.parametrize(
    ("ours", "kind", "enhanced"),
    [
        (group("failed", "5.2.2", "552 5.2.2 over quota"), Kind.BOUNCED, "5.2.2"),
        (group("delayed", "4.4.1", "451 4.4.1 try later"), Kind.DELAYED, "4.4.1"),
        (group("delivered", "2.0.0"), Kind.DELIVERED, "2.0.0"),
    ],
)
def test_of_several_recipients_ours_counts(ours: str, kind: Kind, enhanced: str, *, ours_first: bool) -> None:
    other = group("failed", "5.1.1", "550 5.1.1 User unknown", final="zed@elsewhere.example")
    found = read(a_status(*([ours, other] if ours_first else [other, ours])))
    assert found.kind is Kind.BOUNCED
    said = about(found, ANN)
    assert (said.kind, said.enhanced, said.addresses, said.tokens) == (kind, enhanced, (ANN,), found.tokens)
    assert about(found, "unknown@example.org") == found


def test_a_bounce_of_a_bounce_ends() -> None:
    assert read(a_status(group("failed", "5.1.1", final=RCPT))).kind is Kind.AUTO_REPLY
    bounce = a_status(group("failed", "5.1.1")).decode()
    returned = "Content-Type: message/rfc822\n\n" + bounce
    again = (
        'From: MAILER-DAEMON@x.example\nContent-Type: multipart/report; boundary="outer"\n\n'
        f"--outer\nContent-Type: message/delivery-status\n\n{group('failed', '5.4.6', final='')}\n"
        f"--outer\n{returned}\n--outer--\n"
    )
    assert read(again.encode()).kind is Kind.AUTO_REPLY

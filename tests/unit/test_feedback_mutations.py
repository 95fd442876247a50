"""Reports that were damaged on their way: cut, put together wrongly, in another charset, nested, with huge headers.

None is an error, none takes long, and none has a token that was not in it."""

import random
import re
import time
from collections.abc import Callable
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from shared.feedback.about import about
from shared.feedback.read import digest, read
from tests.support.feedback_corpus import ANN, LINK, TOKEN, Case, cases
from tests.support.feedback_corpus_more import more_cases

Mutation = Callable[[random.Random, bytes], bytes]

SECONDS = 5.0
CHARSETS = [
    b"utf-16",
    b"utf-7",
    b"hz",
    b"iso-2022-jp",
    b"gb2312",
    b"punycode",
    b"rot13",
    b"zlib",
    b"idna",
    b"\xff",
    b"",
]
ENCODINGS = [b"base64", b"quoted-printable", b"x-uuencode", b"binary", b'"base64"', b""]
PIECES = [
    b"--=_b\n",
    b"--=_b--\n",
    b"\n\n",
    b"\r",
    b"\0",
    b"Content-Type: message/delivery-status\n\n",
    b"Status: 5.999.999\n",
    b"Final-Recipient: rfc822;\n",
    b"Diagnostic-Code: smtp; 5" + b"5" * 5000 + b"\n",
    b"=?utf-8?b?" + b"A" * 3000 + b"?=",
    b"Feedback-Type: abuse\n",
    b"<!--",
    b"<" * 2000,
    b"550 5.1.1 " * 300,
    b"\xed\xa0\x80\xf0\x9f\x92\xa9",
    "İſK".encode(),
]


def cut(chance: random.Random, octets: bytes) -> bytes:
    begin, end = sorted(chance.randrange(len(octets) + 1) for _ in range(2))
    return chance.choice([octets[:end], octets[begin:], octets[:begin] + octets[end:]])


def insert(chance: random.Random, octets: bytes) -> bytes:
    at = chance.randrange(len(octets) + 1)
    return octets[:at] + chance.choice(PIECES) + octets[at:]


def repeat(chance: random.Random, octets: bytes) -> bytes:
    begin, end = sorted(chance.randrange(len(octets) + 1) for _ in range(2))
    return octets[:begin] + octets[begin:end] * chance.choice([2, 20]) + octets[end:]


def shuffle(chance: random.Random, octets: bytes) -> bytes:
    parts = re.split(rb"(?m)^--=_b$", octets)
    chance.shuffle(parts)
    return b"--=_b".join(parts)


def recode(chance: random.Random, octets: bytes) -> bytes:
    octets = re.sub(rb"charset=[^;\n]*", lambda _: b"charset=" + chance.choice(CHARSETS), octets)
    pattern = rb"(?i)(content-transfer-encoding:)[^\n]*"
    return re.sub(pattern, lambda found: found[1] + b" " + chance.choice(ENCODINGS), octets)


def nest(chance: random.Random, octets: bytes) -> bytes:
    outer = b"".join(b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (depth, depth) for depth in range(100))
    return chance.choice([outer, b"Content-Type: message/rfc822\n\n" * 100]) + octets


def swell(chance: random.Random, octets: bytes) -> bytes:
    return chance.choice([b"X-Long: " + b"y" * 200_000 + b"\n", b"X-Many: y\n z\n" * 20_000]) + octets


def flip(chance: random.Random, octets: bytes) -> bytes:
    flipped = bytearray(octets)
    for _ in range(min(20, len(flipped))):
        flipped[chance.randrange(len(flipped))] = chance.randrange(256)
    return bytes(flipped)


def end_lines(chance: random.Random, octets: bytes) -> bytes:
    return octets.replace(b"\n", chance.choice([b"\r\n", b"\r", b"\n\n", b"\n ", b"\r\r\n"]))


MUTATIONS: list[Mutation] = [cut, insert, repeat, shuffle, recode, nest, swell, flip, end_lines]


def stripped(case: Case) -> Case:
    """Without a token of ours that can be read as it stands."""
    octets = re.sub(TOKEN.encode(), b"x" * 20, case.octets, flags=re.IGNORECASE).replace(LINK.encode(), b"y" * 20)
    return replace(case, octets=octets, rcpt="postmaster@bounces.example.com")


CASES = [*cases(), *more_cases()]
FORGED = [case for case in map(stripped, CASES) if b"base64" not in case.octets and b"quoted" not in case.octets]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([*CASES, *FORGED]), st.lists(st.sampled_from(MUTATIONS), min_size=1, max_size=4), st.integers())
def test_a_mail_that_was_damaged_on_its_way_is_read(case: Case, mutations: list[Mutation], seed: int) -> None:
    octets = case.octets
    for mutate in mutations:
        octets = mutate(random.Random(seed), octets)
    before = time.process_time()
    found = read(octets, case.rcpt, case.sender)
    digest(octets, case.rcpt)
    assert time.process_time() - before < SECONDS
    found.judgement()
    about(found, ANN).judgement()
    assert len(found.tokens) <= 20
    if case.rcpt.startswith("postmaster"):
        assert not {TOKEN, LINK} & set(found.tokens)
    for said in (found, *found.of_each):
        assert all(text.isprintable() for text in (said.text, said.reporter)), said
        assert not any("\0" in address for address in said.addresses), said


def test_an_address_with_a_character_that_cannot_be_printed() -> None:
    status = (
        b"Content-Type: message/delivery-status\n\nReporting-MTA: dns; mx.example.net\n\nAction: failed\n"
        b"Status: 5.1.1\nOriginal-Recipient: rfc82\x002; ann@example.net\nFinal-Recipient: rfc822; \x00\n"
    )
    assert read(status).addresses == ("rfc82 2; ann@example.net",)

"""Our verifier of DKIM signatures agrees with dkimpy, about good and about changed messages."""

import base64
from functools import cache

import dkim
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from shared.deliverability.dkim_verify import SignatureError, parse, signature_tags, verify

MESSAGE = (
    b"From: News <news@example.com>\r\nTo: ann@example.net\r\nSubject: Hello\r\n\tand  more\r\nX-A: 1\r\nX-A: 2\r\n\r\n"
    b"Hello  there \t \r\n\r\n  x\r\n\r\n\r\n"
)
SIGNED = [b"from", b"to", b"subject", b"x-a", b"x-a", b"x-a"]


@cache
def keys(name: str) -> tuple[bytes, str]:
    """A key by name, as dkimpy takes it, and the record to publish."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return pem, f"v=DKIM1; k=rsa; p={base64.b64encode(der).decode()}"


@cache
def signed(canonical: str) -> bytes:
    head, body = (part.encode() for part in canonical.split("/"))
    signature = dkim.sign(
        MESSAGE, b"s1", b"example.com", keys("rsa")[0], canonicalize=(head, body), include_headers=SIGNED
    )
    return bytes(signature + MESSAGE)


def ours(octets: bytes, record: str = "") -> str:
    """Empty: it is good."""
    message = parse(octets)
    try:
        [signature] = message.signatures
        verify(message, signature, record or keys("rsa")[1])
    except (SignatureError, ValueError) as error:
        return str(error) or "wrong"
    return ""


def theirs(octets: bytes) -> bool:
    try:
        return bool(dkim.verify(octets, dnsfunc=lambda *_, **__: keys("rsa")[1].encode(), minkey=512))
    except Exception:  # noqa: BLE001 - whatever it makes of a broken message
        return False


CANONICAL = ["simple/simple", "simple/relaxed", "relaxed/simple", "relaxed/relaxed"]


@pytest.mark.parametrize("canonical", CANONICAL)
def test_what_dkimpy_signs_is_good(canonical: str) -> None:
    octets = signed(canonical)
    assert ours(octets) == ""
    assert ours(octets.replace(b"\r\n", b"\n")) == "", "line ends of a file"
    assert ours(b"Received: from a by b\r\n" + octets) == "", "a header that is not signed"
    assert "body" in ours(octets.replace(b"there", b"where"))
    assert "header" in ours(octets.replace(b"Hello\r\n", b"Hallo\r\n"))
    assert "header" in ours(b"X-A: 3\r\n" + octets), "oversigned"
    assert "header" in ours(octets, keys("other")[1])


@pytest.mark.parametrize("body", [b"", b"\r\n", b"\r\n\r\n", b"x", b"x \r\n", b" \t\r\n\r\n", b".\r\n"])
@pytest.mark.parametrize("canonical", [b"simple", b"relaxed"])
def test_the_ends_of_bodies_are_canonical(body: bytes, canonical: bytes) -> None:
    message = b"From: a@example.com\r\n\r\n" + body
    signature = dkim.sign(message, b"s1", b"example.com", keys("rsa")[0], canonicalize=(b"relaxed", canonical))
    assert ours(signature + message) == ""


OF_RFC_8463 = b"""\
DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=brisbane; t=1528637909; h=from : to :
 subject : date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11Bus
 Fa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==
From: Joe SixPack <joe@football.example.com>
To: Suzie Q <suzie@shopping.example.net>
Subject: Is dinner ready?
Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)
Message-ID: <20030712040037.46341.5F8J@football.example.com>

Hi.

We lost the game.  Are you hungry yet?

Joe.
"""
ED25519_KEY = "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="


def test_the_example_of_rfc_8463_is_good() -> None:
    assert ours(OF_RFC_8463, ED25519_KEY) == ""
    assert "header" in ours(OF_RFC_8463.replace(b"dinner", b"supper"), ED25519_KEY)
    assert "key for ed25519" in ours(signed("relaxed/relaxed"), ED25519_KEY)


@pytest.mark.parametrize("canonical", CANONICAL)
@pytest.mark.parametrize("line", [b"\r", b"no header", b"Subject"])
def test_a_line_that_is_no_header_breaks_it(canonical: str, line: bytes) -> None:
    head, end, body = signed(canonical).partition(b"\r\n\r\n")
    changed = head + b"\r\n" + line + end + body
    assert "is no header" in ours(changed)
    assert not theirs(changed)
    assert ours(b"From news@example.com Fri Nov 27 15:00:00 2026\r\n" + signed(canonical)) == ""


@given(
    st.sampled_from(CANONICAL),
    st.integers(0, 1200),
    st.sampled_from([b"", b" ", b"\t", b"x", b"\r\n", b"\r\n ", b":", b"\r", b"\n"]),
    st.booleans(),
)
def test_of_a_changed_message_we_say_what_dkimpy_says(canonical: str, at: int, put: bytes, instead: bool) -> None:
    octets = signed(canonical)
    at %= len(octets)
    changed = octets[:at] + put + octets[at + instead :]
    if theirs(changed):
        assert ours(changed) == ""
    elif ours(changed) == "":
        assert octets.index(b"From:") > at, "we read a signature's own folding more leniently, never the message"


WRONG = {
    "l=": ("; l=9999", ""),
    "a number": ("; l=x", "l= is no number"),
    "expired": ("; x=1000000000", "expired"),
    "another identity": ("; i=@example.org", "i= is not within d="),
}


@pytest.mark.parametrize("case", WRONG)
def test_each_tag_is_judged(case: str) -> None:
    more, words = WRONG[case]
    said = ours(signed("relaxed/relaxed").replace(b"DKIM-Signature: v=1", f"DKIM-Signature: v=1{more}".encode()))
    assert words in said
    assert said, "it is part of what is signed"


@pytest.mark.parametrize("missing", ["a", "b", "bh", "d", "h", "s", "v"])
def test_a_signature_needs_its_tags(missing: str) -> None:
    tags = {**signature_tags(parse(signed("relaxed/relaxed")).signatures[0])}
    del tags[missing]
    header = "; ".join(f"{name}={value}" for name, value in tags.items())
    assert f"{missing}= is missing" in ours(f"DKIM-Signature: {header}\r\n".encode() + MESSAGE)


@pytest.mark.parametrize("record", ["", "p=", "p=!", "p=AAAA", "k=rsa", "v=DKIM1; k=new; p=AAAA"])
def test_a_record_without_a_key_proves_nothing(record: str) -> None:
    assert ours(signed("relaxed/relaxed"), record or " ")


@given(st.binary(max_size=300))
def test_any_bytes_are_judged(octets: bytes) -> None:
    message = parse(octets + b"\r\nDKIM-Signature: " + octets)
    for signature in message.signatures:
        with pytest.raises(SignatureError):
            verify(message, signature, keys("rsa")[1])


@pytest.mark.parametrize("tag", ["v=DKIM2", "h=sha1", "s=tlsrpt"])
def test_a_record_for_something_else_verifies_no_email(tag: str) -> None:
    record = keys("rsa")[1].removeprefix("v=DKIM1; ")
    assert ours(signed("relaxed/relaxed"), record) == ""
    assert tag in ours(signed("relaxed/relaxed"), f"{tag}; {record}")

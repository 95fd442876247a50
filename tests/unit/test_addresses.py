"""Addresses: accepted, normalised, refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.addresses import AddressError, needs_smtputf8, parse_address, parse_domain


@pytest.mark.parametrize(
    ("raw", "email", "key"),
    [
        ("A.b+c@Example.COM", "A.b+c@example.com", "a.b+c@example.com"),
        (" \ta@b.de ", "a@b.de", "a@b.de"),
        ("root@localhost", "root@localhost", "root@localhost"),
        ("a@shop.example.test", "a@shop.example.test", "a@shop.example.test"),
        ("a@shop--two.com", "a@shop--two.com", "a@shop--two.com"),
        ("ivan@Пример.РФ", "ivan@xn--e1afmkfd.xn--p1ai", "ivan@xn--e1afmkfd.xn--p1ai"),
        ("ivan@XN--e1afmkfd.xn--p1ai", "ivan@xn--e1afmkfd.xn--p1ai", "ivan@xn--e1afmkfd.xn--p1ai"),
        ("Иван@пример.рф", "Иван@xn--e1afmkfd.xn--p1ai", "иван@xn--e1afmkfd.xn--p1ai"),
        ("o'neil/x=y@b.de", "o'neil/x=y@b.de", "o'neil/x=y@b.de"),
        (f"{'a' * 64}@b.de", f"{'a' * 64}@b.de", f"{'a' * 64}@b.de"),
    ],
)
def test_accepted(raw: str, email: str, key: str) -> None:
    assert parse_address(raw) == (email, key)
    assert needs_smtputf8(email) == (not email.partition("@")[0].isascii())


@pytest.mark.parametrize(
    "raw",
    [
        "",
        " ",
        "a",
        "@b.de",
        "a@",
        "a@b@c.de",
        ".a@b.de",
        "a.@b.de",
        "a..b@b.de",
        "a@.b.de",
        "a@b.de.",
        "a@b..de",
        "a@-b.de",
        "a@b-.de",
        "a@b_c.de",
        "a@1.2.3.4",
        "a@[127.0.0.1]",
        "a@xn--a.com",
        '"a b"@b.de',
        "a b@b.de",
        "a,c@b.de",
        "Anna <a@b.de>",
        "<a@b.de>",
        "a@b.de\n",
        "a\r\nRCPT TO:<x@y.de>@b.de",
        "a\x00@b.de",
        "a\x7f@b.de",
        "a\u2028@b.de",
        "\u202ea@b.de",
        "\ud800@b.de",
        "a@\ud800.de",
        f"{'a' * 65}@b.de",
        f"{'я' * 33}@b.de",
        f"a@{'b' * 64}.de",
        f"a@{'b.' * 126}de",
    ],
)
def test_refused_with_a_reason(raw: str) -> None:
    with pytest.raises(AddressError) as caught:
        parse_address(raw)
    assert caught.value.reason.endswith(".")


def test_domains() -> None:
    assert parse_domain(" Пример.РФ") == "xn--e1afmkfd.xn--p1ai"
    with pytest.raises(AddressError):
        parse_domain("b de")


@settings(deadline=None, max_examples=500)
@given(st.text(max_size=40) | st.emails() | st.tuples(st.text(max_size=20), st.text(max_size=20)).map("@".join))
def test_any_text_is_an_address_or_an_error(raw: str) -> None:
    try:
        email, key = parse_address(raw)
    except AddressError:
        return
    local, at, domain = email.partition("@")
    assert (at, domain) == ("@", domain.lower())
    assert domain.isascii()
    assert local
    assert not any(character.isspace() or character in '<>()[]\\,;:@"' for character in local)
    assert parse_address(email) == (email, key)
    assert key.partition("@")[2] == domain


@settings(deadline=None)
@given(st.emails())
def test_addresses_of_hypothesis_are_accepted_or_refused_as_a_whole(raw: str) -> None:
    """RFC 5321 shapes: whatever is accepted keeps its local part."""
    try:
        email = parse_address(raw).email
    except AddressError:
        return
    assert email.partition("@")[0] == raw.partition("@")[0]
